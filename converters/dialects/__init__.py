"""Operator sets for a graph: ONNX Runtime's fused operators, or the ONNX standard alone."""

from converters.dialects.cuda import POISON
from converters.dialects.dialect import Dialect, DialectName, open_dialect
from converters.dialects.fused import LEFT_PADDING_GUARD

__all__ = ["LEFT_PADDING_GUARD", "POISON", "Dialect", "DialectName", "open_dialect"]
