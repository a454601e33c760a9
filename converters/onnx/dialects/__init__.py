"""Operator sets for a graph: ONNX Runtime's fused operators, or the ONNX standard alone."""

from converters.onnx.dialects.cuda import POISON
from converters.onnx.dialects.dialect import Dialect, DialectName, open_dialect
from converters.onnx.dialects.fused import LEFT_PADDING_GUARD

__all__ = ["LEFT_PADDING_GUARD", "POISON", "Dialect", "DialectName", "open_dialect"]
