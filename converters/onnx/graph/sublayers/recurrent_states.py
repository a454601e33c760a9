"""The states of a recurrence behind a convolution, in every layer that has one."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import onnx_ir as ir

from converters.onnx.graph.graph import Dims
from converters.onnx.graph.kind import KindWriter

#: A number of which softplus and sigmoid are 0 in every dtype: padding then leaves a state as it is.
CLOSED = -1e4


@dataclass(eq=False)
class RecurrentStates(KindWriter):
    """Declares the states, by ONNX Runtime GenAI's names for them."""

    conv: dict[int, ir.Value] = field(default_factory=dict, init=False)
    recurrent: dict[int, ir.Value] = field(default_factory=dict, init=False)

    @abstractmethod
    def _dims(self, index: int) -> tuple[Dims, Dims]:
        """The dimensions of a layer's states, of the convolution and of the recurrence."""

    def open(self, index: int) -> None:
        conv, recurrent = self._dims(index)
        self.conv[index] = self._g.input(f"past.{index}.conv", self._dtype, conv)
        self.recurrent[index] = self._g.input(f"past.{index}.recurrent", self._dialect.state_dtype, recurrent)

    def close(self, index: int) -> None:
        conv, recurrent = self._dims(index)
        self._g.output(self.conv[index], f"present.{index}.conv", self._dtype, conv)
        self._g.output(self.recurrent[index], f"present.{index}.recurrent", self._dialect.state_dtype, recurrent)
