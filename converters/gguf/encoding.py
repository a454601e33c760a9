"""Encodes rows of float32 numbers as blocks of a GGML type, and decodes them."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.constants import GGML_QUANT_SIZES
from numpy.typing import NDArray

from converters.gguf.blocks import GRIDS, encode_blocks
from converters.gguf.types import needs_library
from seap_export.common.llama_library import llama_library


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
