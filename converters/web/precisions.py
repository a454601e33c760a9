"""The precisions that transformers.js knows by name, and the files it looks for."""

from __future__ import annotations

from collections.abc import Mapping

from converters.onnx.precision import Precision
from seap_export.pruning.rounding.grid import BlockQuantization

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


def file_name(precision: str) -> str:
    """The graph's file name, such as "model_q4.onnx"."""
    return f"model{_KINDS[precision][0]}.onnx"


def precision_of(precision: str) -> Precision:
    """The dtype that the graph computes in and how it stores weights, for one of `PRECISIONS`."""
    return _KINDS[precision][1]
