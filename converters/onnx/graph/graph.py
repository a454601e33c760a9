"""A thin builder on top of onnx_ir: one graph with its named values, nodes and initializers, in order of use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

#: The domain of ONNX Runtime's custom operators.
MS_DOMAIN = "com.microsoft"
#: Opset 23 introduced RMSNormalization; ONNX Runtime supports it from 1.23 on.
OPSETS: Mapping[str, int] = {"": 23, MS_DOMAIN: 1}
#: Grows when the same model gives another graph; files record it.
GRAPH_VERSION = 6
#: The file format version that belongs to opset 23.
IR_VERSION = 11

Dims = Sequence[int | str | None]


class GraphBuilder:
    """Builds a graph from front to back; a node's outputs are named after the node."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._nodes: list[ir.Node] = []
        self._initializers: dict[str, ir.Value] = {}
        self._notes: dict[str, str] = {}

    def input(self, name: str, dtype: ir.DataType, dims: Dims) -> ir.Value:
        """Adds a graph input; a dimension given as a string is symbolic, one that is None unknown."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
        self._inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, dims: Dims) -> None:
        """Makes a node's output a graph output of the given name."""
        value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(dims)
        self._outputs.append(value)

    def initializer(self, tensor: ir.TensorProtocol) -> ir.Value:
        """The value of a named tensor; the same name always returns the same value, so that it is stored once."""
        name = str(tensor.name)
        if name not in self._initializers:
            shape = ir.Shape(tensor.shape.numpy())
            self._initializers[name] = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor
            )
        return self._initializers[name]

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        """A small initializer with the content of `array`."""
        return self.initializer(ir.Tensor(np.asarray(array), name=name))

    def ints(self, *values: int, name: str = "") -> ir.Value:
        """An int64 constant [values], named after them unless it has a name."""
        label = "_".join(map(str, values)).replace("-", "minus")
        return self.constant(name or f"ints_{label}", np.array(values, np.int64))

    def integer(self, value: int, name: str) -> ir.Value:
        """An int64 constant without dimensions."""
        return self.constant(name, np.array(value, np.int64))

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> ir.Value:
        """Adds a node with one output; inputs that are None are omitted."""
        return self.node_with_outputs(op_type, inputs, name, ["output"], domain=domain, attributes=attributes)[0]

    def node_with_outputs(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        outputs: Sequence[str],
        *,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[ir.Value, ...]:
        """Adds a node; an output named "" is not computed."""
        values = tuple(ir.Value(name=f"{name}.{output}" if output else "") for output in outputs)
        given = max((place for place, value in enumerate(inputs, 1) if value is not None), default=0)
        self._nodes.append(
            ir.Node(
                domain,
                op_type,
                inputs[:given],
                attributes=[ir.convenience.convert_attribute(key, value) for key, value in (attributes or {}).items()],
                outputs=values,
                name=name,
            )
        )
        return values

    def note(self, key: str, text: str) -> None:
        """Adds a text to the model's metadata, where an ONNX Runtime session can read it."""
        self._notes[key] = text

    def subgraph(self) -> ir.Graph:
        """The graph so far, as the body of a node such as Scan in another graph."""
        return ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=(*self._initializers.values(),),
            name=self._name,
        )

    def build(self, producer: str) -> ir.Model:
        """The finished model, with the operator sets that it uses."""
        domains = {node.domain for node in self._nodes} | {""}
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._nodes,
            initializers=tuple(self._initializers.values()),
            opset_imports={domain: version for domain, version in OPSETS.items() if domain in domains},
            name=self._name,
        )
        return ir.Model(
            graph,
            ir_version=IR_VERSION,
            producer_name=producer,
            model_version=GRAPH_VERSION,
            metadata_props=self._notes,
        )
