"""Operator sets for a graph: ONNX Runtime's fused operators, or the ONNX standard alone."""

from converters.onnx.graph.dialects.cuda import POISON
from converters.onnx.graph.dialects.dialect import Dialect, DialectType, dialect_of
from converters.onnx.graph.dialects.fused_tokens import MASK_GUARD
from converters.onnx.graph.dialects.standard_tokens import HOLES_GUARD

__all__ = ["HOLES_GUARD", "MASK_GUARD", "POISON", "Dialect", "DialectType", "dialect_of"]
