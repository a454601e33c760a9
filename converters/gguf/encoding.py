"""Rows of float32 numbers as the blocks of a type, and back."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from converters.gguf.q4_0 import encode_q4_0
from converters.gguf.types import needs_library
from seap_export.llama_library import llama_library

__all__ = ["decode", "encode", "tolerance"]

#: How far a number may be from the one that was stored, over the largest of its block, and the numbers in a block.
#: Scales are float16; in K-quants those of 16 or 32 numbers are rounded too, to fractions of the largest of 256.
_ROUNDING: dict[Kind, tuple[float, int]] = {
    Kind.F32: (1e-6, 1),
    Kind.F16: (2.0**-11, 1),
    Kind.Q8_0: (0.5 / 127 + 2.0**-11, 32),
    Kind.Q5_0: (1 / 16 + 2.0**-11, 32),
    Kind.Q5_1: (1 / 31 + 3 * 2.0**-11, 32),
    Kind.Q4_K: (0.15, 256),
    Kind.Q5_K: (0.08, 256),
    Kind.Q6_K: (0.05, 256),
}
#: Half the smallest number of float16: what lies below is rounded to it or to zero.
_TINY = 2.0**-25


def encode(rows: NDArray[np.float32], kind: Kind) -> NDArray[np.uint8]:
    """float32 [rows, columns] as bytes [rows, bytes of a row].

    Raises:
        EnvironmentFailure: The type takes llama.cpp's library, which is missing.
    """
    if kind == Kind.Q4_0:
        return encode_q4_0(rows)
    if not needs_library(kind):
        packed: NDArray[np.uint8] = gguf.quants.quantize(rows, kind)
        return packed.view(np.uint8).reshape(len(rows), -1)
    rows = np.ascontiguousarray(rows, np.float32)
    block, size = GGML_QUANT_SIZES[kind]
    columns = rows.shape[1]
    found = np.empty((len(rows), columns // block * size), np.uint8)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (rows, found))
    written = llama_library().ggml_quantize_chunk(int(kind), *pointers, 0, len(rows), columns, None)
    if written != found.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes of {found.nbytes}")
    return found


def decode(packed: NDArray[np.uint8], kind: Kind) -> NDArray[np.float32]:
    """Bytes [rows, bytes of a row] as float32 [rows, columns]."""
    values: NDArray[np.float32] = gguf.quants.dequantize(packed, kind)
    return values


def tolerance(rows: NDArray[np.float32], kind: Kind) -> NDArray[np.float32]:
    """How far each number may be off by the rounding of a type other than Q4_0, float32 [rows, columns]."""
    share, block = _ROUNDING[kind]
    blocks = np.abs(rows).reshape(*rows.shape[:-1], -1, block)
    largest = blocks.max(axis=-1, keepdims=True)
    found: NDArray[np.float32] = np.broadcast_to(largest * share + _TINY, blocks.shape).reshape(rows.shape)
    return found
