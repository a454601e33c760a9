"""Writes a safetensors file tensor by tensor.

The safetensors library saves a whole dictionary at once. A shrunk model is written layer by layer: first the header,
whose shapes the plan determines, then the data (format: https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import torch

__all__ = ["SafetensorsWriter"]

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class SafetensorsWriter:
    """A safetensors file open for writing; call `write` once per tensor, in the order of `shapes`.

    Args:
        path: The file to create.
        shapes: Name and shape of every tensor.
        dtype: float32, float16 or bfloat16, for all tensors.

    Raises:
        ValueError: On `write`, if a tensor is out of order or has the wrong shape; on exit, if tensors are missing.
    """

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        self._path = path
        self._shapes = dict(shapes)
        self._dtype = dtype
        self._pending = list(shapes)
        self._file: BinaryIO

    def __enter__(self) -> Self:
        self._file = self._path.open("wb")
        self._file.write(self._header())
        return self

    def _header(self) -> bytes:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in self._shapes.items():
            start, end = end, end + math.prod(shape) * self._dtype.itemsize
            header[name] = {"dtype": _DTYPE_NAMES[self._dtype], "shape": list(shape), "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data start at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Appends a tensor, converted to the file's dtype."""
        if not self._pending or self._pending[0] != name:
            raise ValueError(f"tensor '{name}' is out of order; expected {self._pending[:1]}")
        if tuple(tensor.shape) != self._shapes[name]:
            raise ValueError(f"tensor '{name}' has shape {list(tensor.shape)}, expected {list(self._shapes[name])}")
        self._file.write(tensor.to(self._dtype).contiguous().view(torch.uint8).numpy().data)
        del self._pending[0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and self._pending:
            raise ValueError(f"tensors are missing: {self._pending}")
