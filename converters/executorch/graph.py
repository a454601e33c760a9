"""Builds a part of a program that XNNPACK runs: values, nodes, and the constants that are no weights of the model.

Source: https://github.com/pytorch/executorch, backends/xnnpack/serialization/schema.fbs and runtime/XNNCompiler.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converters.executorch.packages import graph_schema, require
from converters.executorch.weights import GRID, Weight

Shape = tuple[int, ...]
#: The most tokens of a call, which shapes have where the number of tokens is open.
TOKENS = 128
#: No value, no external number, and no offset.
_NONE, _NO_OFFSET = (1 << 32) - 1, (1 << 64) - 1
_IS_INPUT, _IS_OUTPUT, _ALIGNMENT = 1, 2, 16


@dataclass(frozen=True)
class Value:
    """The result of a node, an input or a constant of a graph; nodes that read it see float32."""

    index: int
    shape: Shape


class Outside(Protocol):
    """The program around a graph, as far as the graph uses it."""

    @property
    def weights(self) -> Mapping[str, Weight]:
        """The tensors of the model, by name."""
        ...

    def table(self, numbers: NDArray[np.float32]) -> int:
        """The program's number of a constant tensor, which is added to it."""
        ...

    def weight(self, name: str) -> tuple[int, int | None]:
        """The program's numbers of a weight of the model and of its scales; None: it has no scales."""
        ...


class Graph:
    """Builds an XNNPACK graph, whose nodes run in the order in which they are added.

    XNNPACK packs the constants of `linear` when a program is loaded, and then they are freed. Every other constant is
    an input, as what the program computed before is.
    """

    def __init__(self, program: Outside) -> None:
        self.inputs: dict[int, Value] = {}
        self.outputs: list[Value] = []
        self._made, self._program = graph_schema(), program
        self._values: list[Any] = []
        self._nodes: list[Any] = []
        self._data = [self._made.ConstantDataOffset(0, 0, None)]  # the first one stands for none
        self._constants = bytearray()
        self._known: dict[object, Value] = {}

    def take(self, tensor: int, shape: Shape) -> Value:
        """The value of a tensor of the program, which becomes an input of the graph."""
        if tensor not in self.inputs:
            self.inputs[tensor] = self._value(shape)
        return self.inputs[tensor]

    def weight(self, name: str) -> Value:
        """The value of a weight of the model that is not a matrix, which becomes an input of the graph."""
        return self.take(self._program.weight(name)[0], self._program.weights[name].shape)

    def number(self, number: float) -> Value:
        """A float32 constant of shape [1]."""
        return self.take(self._program.table(np.array([number], np.float32)), (1,))

    def output(self, value: Value) -> None:
        self.outputs.append(value)

    def constant(self, numbers: NDArray[np.float32]) -> Value:
        """A float32 constant that is stored in the graph, as a weight or bias of `linear`."""
        data, key = numbers.tobytes(), (numbers.shape, numbers.tobytes())
        if key not in self._known:
            self._data.append(self._made.ConstantDataOffset(len(self._constants), len(data), None))
            self._constants += data + bytes(-len(data) % _ALIGNMENT)
            self._known[key] = self._value(numbers.shape, data=len(self._data) - 1)
        return self._known[key]

    def linear(self, x: Value, weight: str | Value, bias: str | Value | None = None) -> Value:
        """`x @ weight.T + bias`; levels are multiplied with `x` rounded to 8 bits, a scale for each row."""
        if isinstance(weight, str) and self._program.weights[weight].kind != "fp32":
            x = self._rounded(x)
        filters, biases = (self._weight(one) if isinstance(one, str) else one for one in (weight, bias))
        assert filters is not None
        shape, bias_id = (*x.shape[:-1], filters.shape[0]), _NONE if biases is None else biases.index
        return self.node("FullyConnected", shape, input1_id=x.index, filter_id=filters.index, bias_id=bias_id)

    def node(self, operator: str, shape: Shape, bounds: tuple[float, float] | None = None, **fields: Any) -> Value:
        """Adds a node; `fields` are those of its class but for its output and its flags."""
        made, output = self._made, self._value(shape)
        node = getattr(made, f"XNN{operator}")(**fields, output_id=output.index, flags=0)
        span = (
            None if bounds is None else made.OutputMinMax(*("inf" if bound == np.inf else bound for bound in bounds))
        )
        self._nodes.append(made.XNode(node, 0, span))
        return output

    def packed(self) -> bytes:
        """The graph as XNNPACK's compiler reads it, with inputs and outputs numbered in the order of the call."""
        for number, value in enumerate([*self.inputs.values(), *self.outputs]):
            entry = self._values[value.index].xvalue_union
            entry.external_id, entry.flags = number, _IS_INPUT if number < len(self.inputs) else _IS_OUTPUT
        graph = self._made.XNNGraph(
            version="0",
            xnodes=self._nodes,
            xvalues=self._values,
            num_externs=len(self.inputs) + len(self.outputs),
            input_ids=[value.index for value in self.inputs.values()],
            output_ids=[value.index for value in self.outputs],
            constant_data=self._data,
        )
        serialize = require("executorch.backends.xnnpack.serialization.xnnpack_graph_serialize")
        data: bytes = serialize.serialize_xnnpack_binary(graph, self._constants)
        return data

    def _weight(self, name: str) -> Value:
        if name not in self._known:
            weight, made = self._program.weights[name], self._made
            if weight.kind == "fp32":
                self._known[name] = self._value(weight.shape, data=self._named(name, weight.size))
            else:
                numbers = self._named(name, weight.size)
                told = {
                    "scale": [], "channel_dim": 0, "num_scales": weight.scale_count,
                    "scale_buffer_idx": self._named(weight.scale_name, weight.scale_size),
                }  # fmt: skip
                how = made.PerChannelQuant(**told)
                if weight.kind == "int4":
                    how = made.PerChannelGroupQuant(**told, group_size=GRID.block_size)
                dtype = "qcint8" if weight.kind == "int8" else "qbint4"
                self._known[name] = self._value(weight.shape, dtype, numbers, how)
        return self._known[name]

    def _rounded(self, x: Value) -> Value:
        key = ("rounded", x.index)
        if key not in self._known:
            value = self._value(x.shape, "qdint8", 0, self._made.PerTokenDynamicQuant(num_nonbatch_dims=1))
            self._nodes.append(self._made.XNode(self._made.XNNConvert(x.index, value.index, 0), 0))
            self._known[key] = value
        return self._known[key]

    def _named(self, key: str, size: int) -> int:
        self._data.append(self._made.ConstantDataOffset(_NO_OFFSET, size, key))
        return len(self._data) - 1

    def _value(self, shape: Shape, dtype: str = "fp32", data: int = 0, how: Any = None) -> Value:
        made, value = self._made, Value(len(self._values), shape)
        dtype = getattr(made.XNNDatatype, f"xnn_datatype_{dtype}")
        entry = made.XNNTensorValue(dtype, len(shape), list(shape), data, _NONE, 0, value.index)
        self._values.append(made.XValue(entry if how is None else made.XNNQuantizedTensorValue(entry, how)))
        return value
