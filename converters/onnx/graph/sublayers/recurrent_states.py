"""The states of a recurrence behind a convolution, in every layer that has one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import onnx_ir as ir

from converters.onnx.graph.dialects import Dialect
from converters.onnx.graph.graph import Dims, GraphBuilder
from converters.onnx.graph.linear import Linears
from converters.onnx.weights.weights import LazyWeights
from seap_export.families import ModelSpec

__all__ = ["CLOSED", "RecurrentStates"]

#: What softplus and sigmoid make 0 of, in every dtype: padding then leaves a state as it is.
CLOSED = -1e4


class RecurrentStates(ABC):
    """Declares the states of the layers of one model, by ONNX Runtime GenAI's names for them.

    Attributes:
        conv: What kernels still see of earlier tokens, by layer; the new state once it is there.
        recurrent: The states.
    """

    def __init__(
        self, g: GraphBuilder, spec: ModelSpec, weights: LazyWeights, linears: Linears, dialect: Dialect
    ) -> None:
        self._g, self._spec, self._weights, self._linears, self._dialect = g, spec, weights, linears, dialect
        self._dtype = weights.precision.onnx_dtype
        self.conv: dict[int, ir.Value] = {}
        self.recurrent: dict[int, ir.Value] = {}

    @abstractmethod
    def _dims(self, index: int) -> tuple[Dims, Dims]:
        """Those of both states of a layer."""

    def open(self, index: int) -> None:
        """Declares the states of earlier tokens."""
        conv, recurrent = self._dims(index)
        self.conv[index] = self._g.input(f"past.{index}.conv", self._dtype, conv)
        self.recurrent[index] = self._g.input(f"past.{index}.recurrent", self._dialect.state_dtype, recurrent)

    def close(self, index: int) -> None:
        """Declares those for the tokens that follow."""
        conv, recurrent = self._dims(index)
        self._g.output(self.conv[index], f"present.{index}.conv", self._dtype, conv)
        self._g.output(self.recurrent[index], f"present.{index}.recurrent", self._dialect.state_dtype, recurrent)
