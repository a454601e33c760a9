"""The precisions that transformers.js knows by name, and the files it looks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from converters.onnx.precision import Precision
from seap_export.pruning.rounding.grid import BlockQuantization, Way

#: By name, the default first: what a file's name ends with, the dtype that is computed in, and the bits of weights.
#: q8 is what transformers.js loads in a browser if it is not told otherwise.
_KINDS: Mapping[str, tuple[str, Precision]] = {
    "q8": ("_quantized", Precision("fp32", BlockQuantization(8))),
    "q4": ("_q4", Precision("fp32", BlockQuantization(4))),
    "q4f16": ("_q4f16", Precision("fp16", BlockQuantization(4))),
    "fp16": ("_fp16", Precision("fp16")),
    "fp32": ("", Precision("fp32")),
}
PRECISIONS = tuple(_KINDS)
#: How a matrix may be rounded where each has bits of its own: the bits of kernels, since a page should not unpack any.
WAYS = tuple(Way(bits, size) for bits in (4, 8) for size in (32, 64))
#: What transformers.js calls a graph whose matrices have bits of their own: it knows no name for that.
_MIXED_DTYPE = "q4"


def dtype_of(precision: str) -> str:
    """The name of a precision in transformers.js."""
    return precision if precision in _KINDS else _MIXED_DTYPE


def file_name(precision: str) -> str:
    """The graph's file name, such as "model_q4.onnx"."""
    return f"model{_KINDS[dtype_of(precision)][0]}.onnx"


def precision_of(precision: str, grid: BlockQuantization | None = None) -> Precision:
    """The dtype that the graph computes in and how it stores weights."""
    usual = _KINDS[dtype_of(precision)][1]
    return usual if grid is None else replace(usual, quantization=grid)
