"""Encodes rows of float32 numbers as blocks of a GGML type, decodes them, and bounds the error of rounding."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from converters.comparison import Tolerance
from converters.gguf.blocks import GRIDS, encode_blocks
from converters.gguf.types import needs_library
from seap_export.common.llama_library import llama_library

#: Half the smallest number of float16: what lies below is rounded to it or to zero.
_TINY = 2.0**-25
#: How far a number may be off by the rounding of a type without a grid of ours. Scales are float16;
#: in K-quants those of 16 or 32 numbers are rounded too, to fractions of the largest of 256.
TOLERANCES: Mapping[Kind, Tolerance] = {
    Kind.F32: Tolerance(1e-6, 1, _TINY),
    Kind.F16: Tolerance(2.0**-11, 1, _TINY),
    Kind.Q8_0: Tolerance(0.5 / 127 + 2.0**-11, 32, _TINY),
    Kind.Q5_1: Tolerance(1 / 31 + 3 * 2.0**-11, 32, _TINY),
    Kind.Q4_K: Tolerance(0.15, 256, _TINY),
    Kind.Q5_K: Tolerance(0.08, 256, _TINY),
    Kind.Q6_K: Tolerance(0.05, 256, _TINY),
}

#: For each K-quant, whose bytes depend on llama.cpp's release: the numbers of a block with a scale of its own, how
#: many steps its levels span, and whether these lie on both sides of zero.
_K_BLOCKS: Mapping[Kind, tuple[int, int, bool]] = {
    Kind.Q4_K: (32, 15, False),
    Kind.Q5_K: (32, 31, False),
    Kind.Q6_K: (16, 63, True),
}
#: Numbers that share what scales are fractions of, and how many fractions there are.
_SUPER_BLOCK, _FRACTIONS = 256, 63
#: The squared error of a row over what its steps make on average. Up to 1.4 times that was measured.
_MOST_ERROR = 2.0


def worse_rows(stored: NDArray[np.float32], wanted: NDArray[np.float32], kind: Kind) -> NDArray[np.bool_]:
    """Which rows of a K-quant, [rows, columns], are further off than their steps make them; none of other types.

    A number is off by up to half a step. A scale is rounded to a fraction of the largest of its super-block, which
    moves the levels that it multiplies.
    """
    if kind not in _K_BLOCKS:
        return np.zeros(len(wanted), np.bool_)
    size, span, is_symmetric = _K_BLOCKS[kind]
    blocks = wanted.reshape(len(wanted), -1, _SUPER_BLOCK // size, size).astype(np.float64)
    most, least = np.maximum(blocks.max(-1), 0), np.minimum(blocks.min(-1), 0)
    steps = (2 * np.maximum(most, -least) if is_symmetric else most - least) / span
    moved = steps.max(-1, keepdims=True) * span / _FRACTIONS
    expected = size * (np.square(steps) / 12 + np.square(moved) / 36).sum((1, 2))
    error = np.square(stored.astype(np.float64) - wanted).sum(1)
    worse: NDArray[np.bool_] = ~(error <= _MOST_ERROR * expected + _TINY)
    return worse


def encode(rows: NDArray[np.float32], kind: Kind) -> NDArray[np.uint8]:
    """float32 [rows, columns] as bytes [rows, bytes of a row]."""
    if kind in GRIDS:
        return encode_blocks(rows, kind)
    if not needs_library(kind):
        packed: NDArray[np.uint8] = gguf.quants.quantize(rows, kind)
        return packed.view(np.uint8).reshape(len(rows), -1)
    rows = np.ascontiguousarray(rows, np.float32)
    block, size = GGML_QUANT_SIZES[kind]
    columns = rows.shape[1]
    packed_rows = np.empty((len(rows), columns // block * size), np.uint8)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (rows, packed_rows))
    written = llama_library().ggml_quantize_chunk(int(kind), *pointers, 0, len(rows), columns, None)
    if written != packed_rows.nbytes:
        raise RuntimeError(f"llama.cpp wrote {written} bytes of {packed_rows.nbytes}")
    return packed_rows


def decode(packed: NDArray[np.uint8], kind: Kind) -> NDArray[np.float32]:
    """Bytes [rows, bytes of a row] as float32 [rows, columns]."""
    values: NDArray[np.float32] = gguf.quants.dequantize(packed, kind)
    return values
