"""`KindWriter`: the interface of the kinds of sublayers in the graph of a decoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import onnx_ir as ir

from converters.onnx.graph.dialects import Dialect
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.linear import Linears
from converters.onnx.weights.weights import LazyWeights
from seap_export.model.families import ModelSpec


@dataclass(eq=False)
class KindWriter(ABC):
    """Emits the nodes of the sublayers of one kind, in all layers of a model."""

    _g: GraphBuilder
    _spec: ModelSpec
    _weights: LazyWeights
    _linears: Linears
    _dialect: Dialect

    @property
    def _dtype(self) -> ir.DataType:
        return self._weights.precision.onnx_dtype

    def open(self, index: int) -> None:  # noqa: B027 - most keep none
        """Declares the inputs for the state that a layer's sublayer keeps between calls, if it keeps any."""

    @abstractmethod
    def product(self, index: int, x: ir.Value) -> ir.Value:
        """The product of the output projection of a layer's sublayer, without its bias.

        It is [batch_size, sequence_length, hidden_size].

        Args:
            x: The input of the sublayer, [batch_size, sequence_length, hidden_size].
        """

    def close(self, index: int) -> None:  # noqa: B027
        """Declares the outputs for the new state."""
