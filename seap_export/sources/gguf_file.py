"""The header of a GGUF file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

It is walked before the gguf library reads it: the library trusts the counts it finds, so that a damaged file
would cost it minutes or all memory.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from seap_export.errors import InputError
from seap_export.families import Family, family_of_gguf

__all__ = ["GgufFile", "GgufTensor"]

_STRING, _ARRAY = int(gguf.GGUFValueType.STRING), int(gguf.GGUFValueType.ARRAY)
#: Bytes of each scalar metadata type.
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MAX_ENTRIES, _MAX_ITEMS, _MAX_DIMENSIONS = 100_000, 4_000_000, 4
_DAMAGED = (ValueError, LookupError, struct.error, ArithmeticError, MemoryError, TypeError)


class _HeaderWalk:
    """Steps over the header of a GGUF file without building anything; raises if it leads out of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    def check(self) -> None:
        if self._data[:4] != b"GGUF":
            raise ValueError("it does not begin with 'GGUF'")
        self._skip(4)
        version = self._number("<I")
        if version not in (2, 3):
            raise ValueError(f"version {version}, supported are 2 and 3 in little-endian order")
        tensors, entries = self._number("<Q"), self._number("<Q")
        if max(tensors, entries) > _MAX_ENTRIES:
            raise ValueError(f"it announces {tensors} tensors and {entries} metadata entries")
        for _ in range(entries):
            self._text()
            self._value(self._number("<I"))
        for _ in range(tensors):
            self._tensor()

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._at)
        self._at += struct.calcsize(form)
        return int(value)

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self._at:
            raise ValueError(f"{size} bytes announced at byte {self._at} of {len(self._data)}")
        self._at += size

    def _text(self) -> None:
        self._skip(self._number("<Q"))

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind != _ARRAY:
            self._skip(self._scalar_bytes(kind))
        else:
            item, count = self._number("<I"), self._number("<Q")
            if count > _MAX_ITEMS:
                raise ValueError(f"it announces an array of {count} items")
            if item == _STRING:
                for _ in range(count):
                    self._text()
            else:
                self._skip(count * self._scalar_bytes(item))

    @staticmethod
    def _scalar_bytes(kind: int) -> int:
        if kind not in _SCALAR_BYTES:
            raise ValueError(f"metadata of unknown type {kind}")
        return _SCALAR_BYTES[kind]

    def _tensor(self) -> None:
        self._text()
        dimensions = self._number("<I")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"it announces a tensor of {dimensions} dimensions")
        self._skip(8 * dimensions + 4 + 8)


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies: its encoding, its shape (out x in), its first byte in the file and its bytes."""

    kind: gguf.GGMLQuantizationType
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The header of a GGUF file; nothing of the file stays mapped.

    Attributes:
        path: The file.
        metadata: Its key/value pairs; arrays are lists.
        tensors: Its tensors, by the name they have in the file.
        family: The family of its architecture.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]
    family: Family

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Reads and checks the header.

        Raises:
            InputError: The file is missing, truncated, not a GGUF file, one shard of many, or of an
                architecture that is not supported.
        """
        metadata, tensors = _read_header(path)
        if metadata.get("split.count", 0) not in (0, 1):
            raise InputError(
                f"{path}: one of {metadata['split.count']} shards; join them with 'llama-gguf-split --merge' first"
            )
        architecture = str(metadata.get("general.architecture", "(not stated)"))
        return cls(path, metadata, tensors, family_of_gguf(architecture))

    def get(self, key: str, default: Any = None) -> Any:
        """The metadata value `{architecture}.{key}`."""
        return self.metadata.get(f"{self.family.gguf_architecture}.{key}", default)

    def whole(self, key: str, default: int | None = None) -> int:
        """The same, which must be one positive whole number.

        Raises:
            InputError: It is missing without a default, or is a list with one value a layer.
        """
        value = self.get(key, default)
        if isinstance(value, list):
            raise InputError(f"{self.path}: '{key}' differs by layer; only models of uniform layers are supported")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{self.path}: metadata '{key}' must be a positive whole number, not {value!r}")
        return value

    def read(self, name: str) -> np.ndarray:
        """A tensor by its name in the file, dequantised to float32.

        Raises:
            InputError: Its encoding is not supported, or the file has changed since it was opened.
        """
        tensor = self.tensors[name]
        try:
            raw = np.fromfile(self.path, np.uint8, tensor.size, offset=tensor.offset)
            values: np.ndarray = gguf.quants.dequantize(raw.reshape(math.prod(tensor.shape[:-1]), -1), tensor.kind)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: tensor '{name}' is encoded as {tensor.kind.name}, which is not supported; "
                "use a file of another quantisation"
            ) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: tensor '{name}' cannot be read ({error}); download it again") from error
        return values.reshape(tensor.shape)


def _read_header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _HeaderWalk(data).check()
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {tensor.name: _tensor(tensor, path.stat().st_size) for tensor in reader.tensors}
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: not a readable file ({error.strerror})") from error
    except _DAMAGED as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise InputError(f"{path}: truncated or not a GGUF file ({reason}); download it again") from error
    return MappingProxyType(metadata), MappingProxyType(tensors)


def _tensor(tensor: gguf.ReaderTensor, file_size: int) -> GgufTensor:
    shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
    block, block_bytes = GGML_QUANT_SIZES[tensor.tensor_type]
    size = math.prod(shape) // block * block_bytes
    if not size or shape[-1] % block:
        raise ValueError(f"tensor '{tensor.name}' of shape {list(shape)} is no whole number of blocks")
    if int(tensor.data_offset) + size > file_size:
        raise ValueError(f"tensor '{tensor.name}' ends after the file")
    return GgufTensor(tensor.tensor_type, shape, int(tensor.data_offset), size)
