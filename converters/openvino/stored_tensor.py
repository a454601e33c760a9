"""How an IR stores the tensors of a model: their types, sizes and bytes by precision, and what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from converters.onnx.weights.quantize import QuantizedMatrix, quantize
from converters.read_back import not_finite
from seap_export.errors import InputError
from seap_export.model.families import names
from seap_export.pruning.rounding.grid import BlockQuantization

ElementType = Literal["f32", "f16", "i8", "i4"]
#: Weights of a row that share a scale.
BLOCK = 32
_BITS: Mapping[ElementType, int] = {"f32": 32, "f16": 16, "i8": 8, "i4": 4}
#: Numbers that are converted at a time.
_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Storage:
    """How matrices are stored."""

    matrices: ElementType
    grid: BlockQuantization | None = None

    @property
    def rounding(self) -> BlockQuantization | None:
        """How matrices are rounded to integers; None: they are floats."""
        if self.grid is not None:
            return self.grid
        return BlockQuantization(_BITS[self.matrices], BLOCK) if self.matrices in ("i8", "i4") else None

    @property
    def floats(self) -> ElementType:
        """The type of matrices that are not rounded to integers: f32 or f16."""
        return "f32" if self.matrices == "f32" else "f16"

    def rounding_of(self, name: str, columns: int) -> BlockQuantization | None:
        """How the matrix of this name and width is rounded to integers; None: it stays in floats."""
        rounding, is_table = self.rounding, name in map(names.tensor, ("embed_tokens", "lm_head"))
        return None if rounding is None or (is_table and not rounding.takes_table(columns)) else rounding.of(name)


@dataclass(frozen=True)
class StoredTensor:
    """A constant of the IR.

    Attributes:
        shape: Shape in the IR; integers are [rows, blocks, `BLOCK`], and their scales [rows, blocks, 1].
        write: Gives its bytes, a piece at a time.
    """

    name: str
    element_type: ElementType
    shape: tuple[int, ...]
    write: Callable[[], Iterator[NDArray[np.uint8]]]

    @property
    def size(self) -> int:
        """Number of bytes in the data file."""
        return -(-prod(self.shape) * _BITS[self.element_type] // 8)


def storage_of(precision: str) -> Storage:
    """How the matrices of fp32, fp16, int8 or int4 are stored."""
    types: dict[str, ElementType] = {"fp32": "f32", "fp16": "f16", "int8": "i8", "int4": "i4"}
    return Storage(types[precision])


def padded(columns: int) -> int:
    """The columns of a matrix of integers, whose last block is filled with zeros."""
    return -(-columns // BLOCK) * BLOCK


def floats(
    name: str, shape: tuple[int, ...], kind: ElementType, read: Callable[[], Iterator[torch.Tensor]]
) -> StoredTensor:
    """A constant of floats; `read` gives its numbers, a piece at a time, when they are written."""
    dtype = torch.float16 if kind == "f16" else torch.float32

    def write() -> Iterator[NDArray[np.uint8]]:
        for rows in read():
            for piece in rows.split(max(1, _ELEMENTS // max(1, prod(rows.shape[1:])))):
                yield _bytes(_finite(piece, name).to(dtype), name)

    return StoredTensor(name, kind, shape, write)


def integers(
    name: str, shape: tuple[int, int], rounding: BlockQuantization, read: Callable[[], torch.Tensor]
) -> tuple[StoredTensor, StoredTensor]:
    """The constants of a matrix that is rounded to integers, and of the scales of its blocks, in f16."""
    latest: list[QuantizedMatrix] = []
    rows, blocks = shape[0], padded(shape[1]) // BLOCK

    def levels() -> Iterator[NDArray[np.uint8]]:
        latest[:] = [quantize(_finite(read(), name), rounding)]
        # ours count from 0, with the middle for zero; these are signed: the highest bit differs
        sign = 0x80 if rounding.bits == 8 else 0x88
        yield _bytes(latest[0].packed, name) ^ np.uint8(sign)

    def scales() -> Iterator[NDArray[np.uint8]]:
        matrix = latest.pop() if latest else quantize(_finite(read(), name), rounding)
        yield _bytes(matrix.scales.half(), name)

    return (
        StoredTensor(name, "i8" if rounding.bits == 8 else "i4", (rows, blocks, BLOCK), levels),
        StoredTensor(f"{name}.scale", "f16", (rows, blocks, 1), scales),
    )


def dequantized(
    stored: NDArray[np.uint8], scales: NDArray[np.float16], shape: tuple[int, int], kind: ElementType
) -> NDArray[np.float32]:
    """The matrix that a runtime makes of integers and scales, float32 [rows, columns].

    Args:
        stored: Bytes of the integers.
        scales: [rows, blocks, 1].
    """
    if kind == "i8":
        numbers = stored.view(np.int8)
    else:
        low, high = (stored << np.uint8(4)).view(np.int8) >> 4, stored.view(np.int8) >> 4
        numbers = np.stack([low, high], axis=1)
    rows, columns = shape
    blocks = numbers.reshape(rows, -1, BLOCK).astype(np.float32)
    blocks *= scales.astype(np.float32)
    return blocks.reshape(rows, -1)[:, :columns]


def _finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Rejects NaN and infinity, which show in the minimum and maximum."""
    low, high = tensor.aminmax()
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise not_finite(name)
    return tensor


def _bytes(tensor: torch.Tensor, name: str) -> NDArray[np.uint8]:
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise InputError(f"weights: '{name}' is too large for fp16; use openvino:fp32")
    array: NDArray[np.uint8] = tensor.contiguous().view(torch.uint8).reshape(-1).numpy()
    return array
