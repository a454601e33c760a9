"""Keeps hidden states between two batches: on the device, in the host's memory or in a file, as they fit.

All of them can be saved before a layer and loaded again, so that interrupted work goes on there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Literal, Protocol

import torch

from seap_export.common.durable import keep
from seap_export.model.families import ModelSpec
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import PART, kept_layers, path_of
from seap_export.model.layers.working_memory import working_bytes

_CPU = torch.device("cpu")


class Streams(Protocol):
    """The hidden states of each batch, float32 [tokens, width], on the device that computes them."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[torch.Tensor]: ...
    def __getitem__(self, index: int) -> torch.Tensor: ...
    def __setitem__(self, index: int, stream: torch.Tensor) -> None: ...
    def companion(self) -> Streams:
        """Further streams of the same batches, without values yet, in the same kind of place; they are never saved."""
        ...


class SavedStreams(Streams, Protocol):
    """Streams that can be saved before a layer, and loaded again by another process."""

    def save(self, layer: int) -> None:
        """Saves all streams as they are before a layer; those saved before other layers stay until `forget`."""
        ...

    def load(self, layer: int) -> None:
        """Replaces all streams by those that were saved before a layer."""
        ...

    def saved(self) -> list[int]:
        """The layers before which they were saved, in ascending order."""
        ...

    def forget(self, layer: int) -> None:
        """Removes the streams that were saved before earlier layers."""
        ...


class MemoryStreams:
    """Streams in memory.

    Args:
        home: Where they are between batches; None: where they were computed.
    """

    def __init__(self, number: int, home: torch.device | None = None, device: torch.device | None = None) -> None:
        self._parts: list[torch.Tensor] = [torch.empty(0)] * number
        self._home, self._device = home, device

    def companion(self) -> Streams:
        """Further streams without values yet, in the same memory."""
        return MemoryStreams(len(self), self._home, self._device)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> torch.Tensor:
        part = self._parts[index]
        return part if self._device is None else part.to(self._device)

    def __setitem__(self, index: int, stream: torch.Tensor) -> None:
        self._parts[index] = stream if self._home is None else stream.to(self._home)


@dataclass(frozen=True)
class _Layout:
    """A file of the streams of all batches, one behind the other, without a header."""

    name: str
    folder: Path
    lengths: tuple[int, ...]
    width: int

    def path(self, layer: int) -> Path:
        return path_of(self.folder, self.name, layer)

    @property
    def part(self) -> Path:
        return self.folder / (self.name + PART)

    def read(self, path: Path, index: int) -> torch.Tensor:
        stream = torch.empty(self.lengths[index], self.width)
        with path.open("rb", buffering=0) as file:
            file.seek(self._offset(index))
            view, done = _bytes(stream), 0
            while done < len(view):  # one call reads 2 GiB at most
                count = file.readinto(view[done:])
                if not count:
                    raise OSError(f"{path}: truncated")
                done += count
        return stream

    def write(self, path: Path, index: int, stream: torch.Tensor) -> None:
        if tuple(stream.shape) != (self.lengths[index], self.width):
            raise ValueError(f"batch {index} has {self.lengths[index]} tokens of {self.width} values")
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(self._offset(index))
            file.write(_bytes(stream.detach().cpu().contiguous()))

    def _offset(self, index: int) -> int:
        return self._starts[index] * self.width * 4

    @cached_property
    def _starts(self) -> Sequence[int]:
        return list(accumulate(self.lengths, initial=0))


def _bytes(stream: torch.Tensor) -> memoryview:
    return stream.view(torch.uint8).flatten().numpy().data


class _Saved:
    """Finds and removes the saved files of streams."""

    _layout: _Layout

    def saved(self) -> list[int]:
        return kept_layers(self._layout.folder, self._layout.name)

    def forget(self, layer: int) -> None:
        for earlier in self.saved():
            if earlier < layer:
                self._layout.path(earlier).unlink()


class _KeptInMemory(_Saved, MemoryStreams):
    """Streams in memory that can be saved as a file."""

    def __init__(self, layout: _Layout, home: torch.device, device: torch.device) -> None:
        super().__init__(len(layout.lengths), home, device)
        self._layout = layout

    def save(self, layer: int) -> None:
        self._layout.part.unlink(missing_ok=True)
        for index, part in enumerate(self._parts):
            self._layout.write(self._layout.part, index, part)
        keep(self._layout.part, self._layout.path(layer))

    def load(self, layer: int) -> None:
        for index in range(len(self)):
            self[index] = self._layout.read(self._layout.path(layer), index)


class _KeptInFile(_Saved):
    """Streams in a file, of which one batch at a time is in memory.

    What was saved stays as it is: what is set goes into a second file, which is the one that the next `save` keeps.
    No file is mapped, since mapped pages would count as the process's memory.
    """

    def __init__(self, layout: _Layout, device: torch.device) -> None:
        self._layout, self._device = layout, device
        self._base: Path | None = None
        self._changed: set[int] = set()

    def companion(self) -> Streams:
        return _KeptInFile(replace(self._layout, name=f"{self._layout.name}-before"), self._device)

    def __len__(self) -> int:
        return len(self._layout.lengths)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> torch.Tensor:
        path = self._layout.part if index in self._changed else self._base
        if path is None:
            raise IndexError(index)
        return self._layout.read(path, index).to(self._device)

    def __setitem__(self, index: int, stream: torch.Tensor) -> None:
        self._layout.write(self._layout.part, index, stream)
        self._changed.add(index)

    def save(self, layer: int) -> None:
        for index in set(range(len(self))) - self._changed:
            self[index] = self[index]
        keep(self._layout.part, self._layout.path(layer))
        self.load(layer)

    def load(self, layer: int) -> None:
        self._base, self._changed = self._layout.path(layer), set()


@dataclass(frozen=True)
class StreamStorage:
    """The choice of a place for hidden states.

    Attributes:
        kind: The place: on the device, in the host's memory or in files.
        size: Bytes of all of them.
        folder: Where they are saved, or kept.
    """

    kind: Literal["device", "memory", "disk"]
    size: int
    folder: Path
    device: torch.device

    def streams(self, name: str, spec: ModelSpec, batches: Sequence[Batch], width: int | None = None) -> SavedStreams:
        """New streams of a name without values, of hidden states or of another width; set, embed or load them next."""
        layout = _Layout(name, self.folder, tuple(batch.num_tokens for batch in batches), width or spec.width)
        if self.kind == "disk":
            return _KeptInFile(layout, self.device)
        return _KeptInMemory(layout, self.device if self.kind == "device" else _CPU, self.device)

    def room(self, compute: Compute, spec: ModelSpec) -> int:
        """Bytes of the device that are left besides the hidden states there and what the layers need."""
        here = self.kind == ("memory" if compute.is_cpu else "device")
        limit = compute.memory if compute.is_cpu else compute.device_memory
        return limit - working_bytes(spec, compute.batch_tokens) - (self.size if here else 0)

    @property
    def description(self) -> str:
        """One line for the user, such as "hidden states in memory (33.6 MB)"."""
        index = {"device": f"on {self.device}", "memory": "in memory", "disk": "on disk"}[self.kind]
        return f"hidden states {index} ({self.size / 1e6:.1f} MB)"


def choose_storage(spec: ModelSpec, tokens: int, compute: Compute, folder: Path, copies: int = 1) -> StreamStorage:
    """The fastest place where hidden states fit besides what the layers need.

    Args:
        tokens: Real tokens of all batches.
        compute: The device and its limits.
        folder: Where files are written.
        copies: How many streams there are for each token; each has a companion if sublayers stand side by side.
    """
    size, working = 4 * tokens * spec.width * copies, working_bytes(spec, compute.batch_tokens)
    size *= 2 if spec.has_beside else 1
    kind: Literal["device", "memory", "disk"] = "disk"
    if not compute.is_cpu and size <= compute.device_memory - working:
        kind = "device"
    elif size <= compute.memory - working:
        kind = "memory"
    return StreamStorage(kind, size, folder, compute.device)
