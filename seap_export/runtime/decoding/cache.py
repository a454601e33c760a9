"""The states that a decoding keeps between calls: keys and values, and those of a fixed size, as of convolutions.

Keys and values are written in place if the graph supports it, else copied and grown at every step.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from seap_export.runtime.decoding.tensors import ELEMENTS, Element, bind, empty, view, zeros
from seap_export.runtime.providers import CPU, TensorDevice

_STATE = re.compile(r"past\w*\.\d+\.\w+")


@dataclass(frozen=True)
class CacheLayout:
    """A state that a graph takes in and gives out.

    Attributes:
        past: Name of the input, such as `past_key_values.0.key` or `past.0.conv`.
        dims: Its dimensions after the rows: -1 for the positions, which grow; none is -1 in a state of a fixed size.
    """

    past: str
    dims: tuple[int, ...]
    element: Element

    @classmethod
    def of(cls, item: Any) -> CacheLayout | None:
        """The layout of an input of a session; None: its sizes are not fixed, or its type is not a state's."""
        dims = tuple(size if isinstance(size, int) else -1 for size in item.shape[1:])
        element = ELEMENTS.get(item.type)
        if element is None or len(dims) < 2 or -1 in (dims[0], dims[-1]) or dims.count(-1) > 1:
            return None
        return cls(item.name, dims, element)

    @property
    def present(self) -> str:
        """Name of the graph's output."""
        return re.sub("^past(_key_values)?", "present", self.past)

    @property
    def grows(self) -> bool:
        """Whether it has a place for each token."""
        return -1 in self.dims

    def shape(self, rows: int, positions: int) -> tuple[int, ...]:
        return (rows, *(positions if size == -1 else size for size in self.dims))


def is_state(name: str) -> bool:
    """Whether an input of a graph is a state, by its name."""
    return _STATE.fullmatch(name) is not None


def empty_buffers(
    layouts: Sequence[CacheLayout], rows: int, positions: int, device: TensorDevice
) -> dict[str, ort.OrtValue]:
    """The buffer of each state by the name of its input, filled with zeros; one of a fixed size has two.

    Zeros are the state before the first token, and some attention kernels read all positions and multiply those of no
    token by 0, which leaves a NaN. A state of a fixed size cannot be written where it is read, so it has a buffer by
    the name of the output, too. On a GPU only one buffer of each size is filled from the host, all others from it.
    """
    buffers: dict[str, ort.OrtValue] = {}
    filled: dict[tuple[tuple[int, ...], Element], ort.OrtValue] = {}
    for layout in layouts:
        kind, shape = (layout.dims, layout.element), layout.shape(rows, positions)
        for name in (layout.past,) if layout.grows else (layout.past, layout.present):
            if device == CPU or kind not in filled:
                filled[kind] = buffers[name] = zeros(shape, layout.element.storage, device)
            else:
                buffers[name] = empty(shape, layout.element.storage, device)
                buffers[name].update_inplace(filled[kind])
    return buffers


class Cache(Protocol):
    """The operations that decoding needs from a cache.

    Attributes:
        buffers: Its tensors, by the names of the graph's inputs.
    """

    buffers: dict[str, ort.OrtValue]

    def mask(self, is_real: NDArray[np.int64]) -> NDArray[np.int64]:
        """The attention mask of the next call, int64 [rows, positions].

        Args:
            is_real: 1 for the real tokens of the call, 0 for padding; int64 [rows, length].
        """

    def reserve(self, kept: int, capacity: int) -> bool:
        """Takes the only row back to its first `kept` tokens, with room for `capacity`; says whether it could."""

    def bind(self, binding: ort.IOBinding) -> None:
        """Makes the next call read and write the cache; the output `logits` must already be bound as the first."""

    def advance(self, binding: ort.IOBinding) -> None:
        """Stores the results of the call; the states are the outputs after the first."""


class SharedCache:
    """Buffers of a fixed capacity, for keys and values each bound as both past and present.

    GroupQueryAttention recognises the shared memory and writes only the new positions: row b's go to sum(mask[b]) - 1.
    The two buffers of a state of a fixed size change places after each call; where a captured call reads and writes
    the same addresses again, the state is copied. Nothing is allocated after the start. The mask of every step
    is as wide as the capacity: all steps then have the same shapes, and ONNX Runtime can reuse its buffers.
    """

    def __init__(
        self,
        layouts: Sequence[CacheLayout],
        rows: int,
        capacity: int,
        device: TensorDevice,
        buffers: dict[str, ort.OrtValue],
    ) -> None:
        """Takes the buffers that `empty_buffers` has made; what an earlier decoding left in them does not count."""
        self._layouts, self._rows, self._capacity, self._device = layouts, rows, capacity, device
        self._lengths = [0] * rows
        self._mask = np.zeros((rows, capacity), np.int64)
        self.buffers = buffers
        self._is_bound = False
        self._swaps = not device.captures

    def mask(self, is_real: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ones for each row's tokens, followed by zeros.

        The mask of the first call is as wide as the longest prompt; a wider one would make GroupQueryAttention assume
        earlier tokens. All later calls share one array that is updated in place; in those of several tokens, all
        tokens are real. A row without a real token in the call overwrites its last position.

        Raises:
            ValueError: A row does not fit into the cache.
        """
        is_prompt = not any(self._lengths)
        # As few numpy calls as possible: after a run, with cold CPU caches, each takes about ten microseconds.
        grown = is_real[:, 0].tolist() if is_real.shape[1] == 1 else is_real.sum(axis=1).tolist()
        self._lengths = [length + new for length, new in zip(self._lengths, grown, strict=True)]
        longest = max(self._lengths)
        if longest > self._capacity:
            raise ValueError(f"a row of {longest} tokens does not fit into a cache of {self._capacity}")
        if is_prompt:
            self._mask[:] = np.arange(self._capacity) < np.array(self._lengths)[:, None]
            return self._mask[:, :longest].copy()
        for row, (length, new) in enumerate(zip(self._lengths, grown, strict=True)):
            self._mask[row, length - new : length] = 1
        return self._mask

    def reserve(self, kept: int, capacity: int) -> bool:
        """Makes larger buffers if they are too small, with what the kept positions hold; not on a GPU."""
        if capacity > self._capacity:
            if self._device != CPU:
                return False
            larger = empty_buffers(self._layouts, self._rows, capacity, self._device)
            for layout in self._layouts:
                if layout.grows:
                    positions = (slice(None), *(slice(kept if size == -1 else None) for size in layout.dims))
                    old, new = self.buffers[layout.past], larger[layout.past]
                    view(new, layout.element)[positions] = view(old, layout.element)[positions]
                    self.buffers[layout.past] = new
            self._capacity, self._is_bound = capacity, False
        self._lengths = [kept]
        self._mask = (np.arange(self._capacity) < kept).astype(np.int64)[None]
        return True

    def bind(self, binding: ort.IOBinding) -> None:
        """Binds all buffers once, and again those that have changed places; one binding serves all calls."""
        for layout in self._layouts:
            if self._is_bound and (layout.grows or not self._swaps):
                continue
            written = self.buffers[layout.past if layout.grows else layout.present]
            bind(binding, self.buffers[layout.past], layout.element, self._device, given=layout.past)
            bind(binding, written, layout.element, self._device, given="", taken=layout.present)
        self._is_bound = True

    def advance(self, binding: ort.IOBinding) -> None:
        """Makes new states of a fixed size the past; the call has written keys and values into their buffers."""
        for layout in (layout for layout in self._layouts if not layout.grows):
            past, present = self.buffers[layout.past], self.buffers[layout.present]
            if self._swaps:
                self.buffers |= {layout.past: present, layout.present: past}
            else:
                past.update_inplace(present)


class AppendedCache:
    """The present of each call becomes the past of the next, for graphs that concatenate past and new positions.

    New positions are appended after all others, including padding, which the mask hides.
    """

    def __init__(self, layouts: Sequence[CacheLayout], rows: int, device: TensorDevice, positions: int = 0) -> None:
        """Starts with an empty cache, or with zeros as those of real tokens at the first positions."""
        self._layouts, self._rows, self._positions, self._device = layouts, rows, positions, device
        self._mask = np.ones((rows, positions), np.int64)
        self.buffers = empty_buffers(layouts, rows, positions, device)

    def mask(self, is_real: NDArray[np.int64]) -> NDArray[np.int64]:
        """The mask of the previous call followed by the new tokens; padding keeps its place."""
        self._mask = np.concatenate([self._mask, is_real], axis=1)
        return self._mask

    def reserve(self, kept: int, capacity: int) -> bool:
        """It grows by itself, but gives nothing back."""
        return kept == self._positions

    def bind(self, binding: ort.IOBinding) -> None:
        """Binds the current cache as past; the call allocates present."""
        for layout in self._layouts:
            bind(binding, self.buffers[layout.past], layout.element, self._device, given=layout.past)
            binding.bind_output(layout.present, self._device.kind, self._device.number)

    def advance(self, binding: ort.IOBinding) -> None:
        """Makes the present of the call the past of the next one."""
        names = [layout.past for layout in self._layouts]
        self.buffers = dict(zip(names, binding.get_outputs()[1 : 1 + len(names)], strict=True))
        self._positions = self._mask.shape[1]
