"""Writes a safetensors file tensor by tensor.

The safetensors library saves a whole dictionary at once. A shrunk model is written layer by layer: first the header,
whose shapes the plan determines, then the data (format: https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch

from seap_export.common.durable import note

_DTYPE_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint32: "U32",
}  # fmt: skip


class SafetensorsWriter:
    """A safetensors file open for writing; call `write` once per tensor, in the order of `shapes`.

    Args:
        path: The file to create.
        shapes: Name and shape of every tensor.
        dtypes: A float dtype for all tensors, or that of each, which may be uint32 for packed numbers.
        framework: Whose layout the tensors have, as loaders look it up: "pt" or "mlx".
        resume: Goes on with an unfinished file at `path` that was to hold the same tensors, and notes what is flushed.

    Raises:
        ValueError: On `write`, if a tensor is out of order or has the wrong shape; on exit, if tensors are missing.
    """

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: torch.dtype | Mapping[str, torch.dtype],
        *,
        framework: str = "pt",
        resume: bool = False,
    ) -> None:
        self._path, self._framework = path, framework
        self._shapes = dict(shapes)
        self._dtypes = dict.fromkeys(shapes, dtypes) if isinstance(dtypes, torch.dtype) else dict(dtypes)
        self._pending = list(shapes)
        self._resume, self._position = resume, 0
        self._written: list[tuple[int, int, int]] = []
        self._file: BinaryIO

    def __enter__(self) -> Self:
        header = self._header()
        going_on = self._resume and self._path.is_file() and self._starts_with(header)
        self._file = self._path.open("r+b" if going_on else "wb")
        if going_on:
            self._skip_written(self._path.stat().st_size - len(header))
        else:
            self._append(memoryview(header))
        return self

    @property
    def size(self) -> int:
        """Size of the whole file in bytes."""
        return len(self._header()) + sum(map(self._bytes, self._shapes))

    def _header(self) -> bytes:
        header: dict[str, object] = {"__metadata__": {"format": self._framework}}
        end = 0
        for name, shape in self._shapes.items():
            start, end = end, end + self._bytes(name)
            header[name] = {
                "dtype": _DTYPE_NAMES[self._dtypes[name]],
                "shape": list(shape),
                "data_offsets": [start, end],
            }
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data start at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text

    def _bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * self._dtypes[name].itemsize

    def _starts_with(self, header: bytes) -> bool:
        with self._path.open("rb") as file:
            return file.read(len(header)) == header

    def _skip_written(self, size: int) -> None:
        """Skips the tensors that are whole in the first `size` bytes of data, and drops one that is there in part."""
        whole = 0
        while self._pending and whole + self._bytes(self._pending[0]) <= size:
            whole += self._bytes(self._pending.pop(0))
        self._cut(whole)

    def _cut(self, size: int) -> None:
        self._file.flush()
        end = len(self._header()) + size
        self._file.truncate(end)
        self._file.seek(end)
        self._position = end

    @property
    def pending(self) -> tuple[str, ...]:
        """The names of the tensors that are not written yet."""
        return tuple(self._pending)

    def rewind(self, name: str) -> None:
        """Drops a tensor and all that follow it, so that they can be written again."""
        names = list(self._shapes)
        self._pending = names[names.index(name) :]
        self._cut(sum(self._bytes(earlier) for earlier in names[: names.index(name)]))
        self._written = [part for part in self._written if part[1] <= self._position]
        self._written.append((self._position, self._position, 0))

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Appends a tensor from any device, converted to its dtype in the file."""
        if not self._pending or self._pending[0] != name:
            raise ValueError(f"tensor '{name}' is out of order; expected {self._pending[:1]}")
        if tuple(tensor.shape) != self._shapes[name]:
            raise ValueError(f"tensor '{name}' has shape {list(tensor.shape)}, expected {list(self._shapes[name])}")
        data = tensor.to(self._dtypes[name]).cpu().contiguous().view(torch.uint8)
        self._append(data.numpy().data)
        del self._pending[0]

    def _append(self, data: memoryview) -> None:
        self._file.write(data)
        start, self._position = self._position, self._position + data.nbytes
        if self._resume and data.nbytes:
            self._written.append((start, self._position, zlib.crc32(data)))

    def flush(self) -> None:
        """Hands all that is written to the disk, and notes it for the call that goes on; see `common.durable`."""
        self._file.flush()
        note(self._path, self._written)
        self._written = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._pending:
            raise ValueError(f"tensors are missing: {self._pending}")
