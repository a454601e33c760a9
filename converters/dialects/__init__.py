"""The operators that a graph is written in: ONNX Runtime's fused ones, or the ONNX standard alone."""

from converters.dialects.dialect import Dialect, DialectName, open_dialect
from converters.dialects.fused import LEFT_PADDING_GUARD

__all__ = ["LEFT_PADDING_GUARD", "Dialect", "DialectName", "open_dialect"]
