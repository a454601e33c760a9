"""What this format shares with ONNX: the graph of the standard dialect, and our rounding to blocks."""

from __future__ import annotations

from converters.onnx.form import OnnxForm
from converters.onnx.graph.decoder import decoder_graph
from converters.onnx.precision import BlockQuantization, Precision
from converters.onnx.weights.quantize import QuantizedMatrix, quantize
from converters.onnx.weights.weights import LazyTensor, LazyWeights, open_weights

__all__ = [
    "BlockQuantization",
    "LazyTensor",
    "LazyWeights",
    "OnnxForm",
    "Precision",
    "QuantizedMatrix",
    "decoder_graph",
    "open_weights",
    "quantize",
]
