"""What the web format takes from the ONNX writer, imported in this one place."""

from __future__ import annotations

from converters.onnx.form import OnnxForm, read_form
from converters.onnx.graph.decoder import HEAD_DIM_MULTIPLE, decoder_graph
from converters.onnx.precision import BlockQuantization, Precision
from converters.onnx.read_back import GraphWeights
from converters.onnx.stored import open_graph, weight_differences
from converters.onnx.weights.overflow import find_scaling
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.weights import INLINE_BYTES, LazyWeights, open_weights

__all__ = [
    "HEAD_DIM_MULTIPLE",
    "INLINE_BYTES",
    "BlockQuantization",
    "GraphWeights",
    "LazyWeights",
    "OnnxForm",
    "Precision",
    "Scaling",
    "decoder_graph",
    "find_scaling",
    "open_graph",
    "open_weights",
    "read_form",
    "weight_differences",
]
