"""Reads the header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

The reader of the gguf library trusts the counts and lengths in the file and makes an array object for every item, so
a hostile file of a few megabytes costs it minutes and gigabytes. This reader checks each step against the end of the
file, and against limits far above any real model, before it builds anything.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, TypeVar

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT

_STRING, _ARRAY = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)
#: The numpy type of each scalar metadata type.
_SCALARS: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        0: np.dtype("u1"),
        1: np.dtype("i1"),
        2: np.dtype("<u2"),
        3: np.dtype("<i2"),
        4: np.dtype("<u4"),
        5: np.dtype("<i4"),
        6: np.dtype("<f4"),
        7: np.dtype("?"),
        10: np.dtype("<u8"),
        11: np.dtype("<i8"),
        12: np.dtype("<f8"),
    }
)
#: Entries, items of all arrays together, dimensions of a tensor, and bytes. The largest vocabularies need a million
#: items (tokens, scores, types, merges) and 20 MB.
_MAX_ENTRIES, _MAX_ITEMS, _MAX_DIMENSIONS, _MAX_BYTES = 100_000, 4_000_000, 4, 256 * 2**20
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class GgufTensor:
    """A tensor in the file: its encoding, shape (out x in), offset of its first byte and size in bytes."""

    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int


def read_header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    """Reads the metadata, with arrays as lists, and the tensors, by name; every tensor lies within the file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is truncated, or is not a GGUF file.
    """
    with path.open("rb") as file:
        metadata, tensors = _Header(file).read()
    return MappingProxyType(metadata), MappingProxyType(tensors)


class _Header:
    """A position in the header that advances with everything that is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._at = 0
        self._items = 0

    def read(self) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not start with 'GGUF'")
        version = self._number(4)
        if version not in (2, 3):
            raise ValueError(f"version {version}; versions 2 and 3, little-endian, are supported")
        tensors, entries = self._number(8), self._number(8)
        if max(tensors, entries) > _MAX_ENTRIES:
            raise ValueError(f"it declares {tensors} tensors and {entries} metadata entries")
        metadata = self._named(entries, lambda: self._value(self._number(4)))
        descriptors = self._named(tensors, self._descriptor)
        start = self._start_of_data(metadata)
        return metadata, {name: self._tensor(name, start, *entry) for name, entry in descriptors.items()}

    def _bytes(self, size: int) -> bytes:
        if size > self._size - self._at:
            raise ValueError(f"{size} bytes declared at byte {self._at} of {self._size}")
        if size > _MAX_BYTES - self._at:
            raise ValueError(f"its header is longer than {_MAX_BYTES // 2**20} MiB")
        self._at += size
        return self._file.read(size)

    def _number(self, size: int) -> int:
        return int.from_bytes(self._bytes(size), "little")

    def _text(self) -> str:
        return self._bytes(self._number(8)).decode("utf-8")

    def _named(self, count: int, read: Callable[[], _Value]) -> dict[str, _Value]:
        values: dict[str, _Value] = {}
        for _ in range(count):
            name = self._text()
            if name in values:
                raise ValueError(f"'{name:.80}' occurs twice")
            values[name] = read()
        return values

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._scalars(kind, 1)[0]
        item, count = self._number(4), self._number(8)
        self._items += count
        if self._items > _MAX_ITEMS:
            raise ValueError(f"it declares an array of {count} items")
        return [self._text() for _ in range(count)] if item == _STRING else self._scalars(item, count)

    def _scalars(self, kind: int, count: int) -> list[Any]:
        dtype = _SCALARS.get(kind)
        if dtype is None:  # this includes arrays of arrays, which no supported model has
            raise ValueError(f"metadata of unknown type {kind}")
        values: list[Any] = np.frombuffer(self._bytes(count * dtype.itemsize), dtype).tolist()
        return values

    def _descriptor(self) -> tuple[tuple[int, ...], int, int]:
        """A tensor's shape, encoding and offset from the start of the data."""
        dimensions = self._number(4)
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"it declares a tensor with {dimensions} dimensions")
        shape = [self._number(8) for _ in range(dimensions)]
        return tuple(reversed(shape)), self._number(4), self._number(8)

    def _start_of_data(self, metadata: Mapping[str, Any]) -> int:
        alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"alignment {alignment!r:.40} is not a power of two")
        return -(-self._at // alignment) * alignment

    def _tensor(self, name: str, start: int, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        if kind not in GGML_QUANT_SIZES:
            raise ValueError(f"tensor '{name:.80}' has the unknown type {kind}")
        encoding = gguf.GGMLQuantizationType(kind)
        block, block_bytes = GGML_QUANT_SIZES[encoding]
        size = math.prod(shape) // block * block_bytes
        if not size or shape[-1] % block:
            raise ValueError(f"tensor '{name:.80}' of shape {list(shape)} is not a whole number of blocks")
        if start + offset + size > self._size:
            raise ValueError(f"tensor '{name:.80}' extends beyond the end of the file")
        return GgufTensor(encoding, shape, start + offset, size)
