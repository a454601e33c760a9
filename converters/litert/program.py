"""Builds a LiteRT program: subgraphs with signatures over shared weights, whose bytes follow the flatbuffer.

Source of the schema: https://github.com/google-ai-edge/LiteRT, tflite/converter/schema/schema.fbs. A buffer with an
offset lies in the file after the flatbuffer, so that weights can be written one at a time, and the file may be larger
than the 2 GB that a flatbuffer can hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.litert.packages import require, schema

#: Alignment of the weights in the file, in bytes.
ALIGNMENT = 64
_DTYPES = {"float32": "FLOAT32", "int32": "INT32", "int8": "INT8", "bool": "BOOL"}
#: Stands for offsets that are not known yet; the default would take no bytes.
_UNKNOWN = 2
_VERSION, _IDENTIFIER = 3, b"TFL3"
#: Operators whose kernels are asked for by another version than 1: keys and values of rank 4, per-row scales.
_VERSIONS = {"FULLY_CONNECTED": 9, "BATCH_MATMUL": 2}

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Weight:
    """How a tensor of the model is stored in a program.

    Attributes:
        is_rounded: Whether it is stored as int8 with a scale for each row; otherwise as float32.
    """

    name: str
    shape: Shape
    is_rounded: bool

    @property
    def dtype(self) -> str:
        """The dtype of the stored numbers: int8 or float32."""
        return "int8" if self.is_rounded else "float32"

    @property
    def size(self) -> int:
        """Bytes of the stored numbers, without scales."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Value:
    """A tensor of a subgraph: its index there, its shape and its dtype."""

    index: int
    shape: Shape
    dtype: str


class Graph:
    """Builds a subgraph of a program, which runtimes call by the name of its signature, `key`."""

    def __init__(self, program: Program, key: str) -> None:
        self.key, self._program = key, program
        self.tensors: list[Any] = []
        self.nodes: list[Any] = []
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}
        self.weights: dict[str, Value] = {}
        self._constants: dict[tuple[str, Shape, bytes], Value] = {}

    def input(self, name: str, shape: Shape, dtype: str = "float32") -> Value:
        self.inputs[name] = self._tensor(name, shape, dtype)
        return self.inputs[name]

    def output(self, name: str, value: Value) -> None:
        self.outputs[name] = value

    def weight(self, name: str) -> Value:
        """The tensor of the subgraph that stands for a weight of the model."""
        if name not in self.weights:
            weight, buffer = self._program.weights[name], self._program.buffer_of(name)
            self.weights[name] = self._tensor(name, weight.shape, weight.dtype, buffer)
        return self.weights[name]

    def constant(self, array: NDArray[Any]) -> Value:
        """A float32 or int32 constant, which is stored in the flatbuffer."""
        key = array.dtype.name, array.shape, array.tobytes()
        if key not in self._constants:
            buffer = self._program.constant(key[2])
            self._constants[key] = self._tensor(f"constant_{buffer}", array.shape, array.dtype.name, buffer)
        return self._constants[key]

    def node(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        shape: Shape,
        options: str | None = None,
        dtype: str = "float32",
        **values: Any,
    ) -> Value:
        made, node = self._tensor(f"{operator.lower()}_{len(self.nodes)}", shape, dtype), schema().OperatorT()
        node.opcodeIndex = self._program.operator(operator)
        node.inputs = [-1 if value is None else value.index for value in inputs]
        node.outputs = [made.index]
        if options is not None:
            node.builtinOptionsType = getattr(schema().BuiltinOptions, options)
            node.builtinOptions = getattr(schema(), f"{options}T")(**values)
        self.nodes.append(node)
        return made

    def linear(self, x: Value, weight: str | Value, bias: str | None = None) -> Value:
        """`x @ weight.T + bias`; the kernel rounds `x` to 8 bits, a scale for each row, if the weights are int8."""
        added = None if bias is None else self.weight(bias)
        matrix = self.weight(weight) if isinstance(weight, str) else weight
        return self.node(
            "FULLY_CONNECTED", [x, matrix, added], (*x.shape[:-1], matrix.shape[0]), "FullyConnectedOptions",
            keepNumDims=True, asymmetricQuantizeInputs=matrix.dtype == "int8",
        )  # fmt: skip

    def leave_out_unused(self) -> None:
        """Removes the nodes whose results no output depends on."""
        needed, kept = {value.index for value in self.outputs.values()}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]

    def _tensor(self, name: str, shape: Shape, dtype: str, buffer: int = 0) -> Value:
        tensor = schema().TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
        tensor.type = getattr(schema().TensorType, _DTYPES[dtype])
        self.tensors.append(tensor)
        return Value(len(self.tensors) - 1, shape, dtype)


def packed(model: Any) -> bytes:
    """Serialises a `ModelT` of the schema to a flatbuffer."""
    builder = require("flatbuffers").Builder(1 << 20)
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


class _Scales:
    """The scales of a rounded matrix's rows, packed once for all subgraphs."""

    def __init__(self, scales: NDArray[np.float32], zeros: _Once) -> None:
        self._scales, self._zeros = _Once(scales), zeros
        self._packed: tuple[Any, int] | None = None

    def Pack(self, builder: Any) -> int:  # noqa: N802 - as the schema's classes
        if self._packed is None or self._packed[0] is not builder:
            scales, zeros, made = self._scales.offset(builder), self._zeros.offset(builder), schema()
            made.QuantizationParametersStart(builder)
            made.QuantizationParametersAddScale(builder, scales)
            made.QuantizationParametersAddZeroPoint(builder, zeros)
            self._packed = builder, made.QuantizationParametersEnd(builder)
        return self._packed[1]


class _Once:
    """A vector that is written into a flatbuffer once, however many tables refer to it."""

    def __init__(self, numbers: NDArray[Any]) -> None:
        self._numbers = numbers
        self._packed: tuple[Any, int] | None = None

    def offset(self, builder: Any) -> int:
        if self._packed is None or self._packed[0] is not builder:
            self._packed = builder, builder.CreateNumpyVector(self._numbers)
        return self._packed[1]


class Program:
    """Builds a program: subgraphs, each with a signature, that share the weights of the model."""

    def __init__(self, weights: Sequence[Weight]) -> None:
        self.weights: Mapping[str, Weight] = {weight.name: weight for weight in weights}
        self._buffers = {weight.name: index + 1 for index, weight in enumerate(weights)}  # 0 has no data
        self._constants: dict[bytes, int] = {}
        self._operators: list[str] = []
        self._graphs: list[Graph] = []

    def graph(self, key: str) -> Graph:
        """Adds a subgraph whose signature has the name `key`."""
        self._graphs.append(Graph(self, key))
        return self._graphs[-1]

    def buffer_of(self, name: str) -> int:
        """The index of the buffer that holds a weight of the model."""
        return self._buffers[name]

    def constant(self, data: bytes) -> int:
        """The index of the buffer that holds these bytes in the flatbuffer."""
        return self._constants.setdefault(data, 1 + len(self._buffers) + len(self._constants))

    def operator(self, name: str) -> int:
        """The index of an operator in the program's list of operators, to which it is added if it is new."""
        if name not in self._operators:
            self._operators.append(name)
        return self._operators.index(name)

    @cached_property
    def offsets(self) -> Mapping[str, int]:
        """Where each tensor's numbers start, in bytes after the beginning of the program, and where all end, as "".

        Nothing may be added to the program afterwards.
        """
        scales = {weight.name: np.ones(weight.shape[0], np.float32) for weight in self.weights.values()}
        end = len(self._packed(scales, dict.fromkeys(self.weights, _UNKNOWN)))
        offsets = {}
        for name, weight in self.weights.items():
            offsets[name] = -(-end // ALIGNMENT) * ALIGNMENT
            end = offsets[name] + weight.size
        return {**offsets, "": end}

    def packed(self, scales: Mapping[str, NDArray[np.float32]]) -> bytes:
        """The program's flatbuffer; `scales` are those of the rows of each quantised matrix, by its name."""
        return self._packed(scales, self.offsets)

    def _packed(self, scales: Mapping[str, NDArray[np.float32]], offsets: Mapping[str, int]) -> bytes:
        made, model = schema(), schema().ModelT()
        zeros = {len(of_rows): _Once(np.zeros(len(of_rows), np.int64)) for of_rows in scales.values()}
        quantization = {name: _Scales(of_rows, zeros[len(of_rows)]) for name, of_rows in scales.items()}
        model.version, model.description = _VERSION, "seap-export"
        model.operatorCodes = [self._operator_code(name) for name in self._operators]
        model.subgraphs = [self._subgraph(graph, quantization) for graph in self._graphs]
        model.signatureDefs = [self._signature(index, graph) for index, graph in enumerate(self._graphs)]
        outside = [made.BufferT(offset=offsets[name], size=self.weights[name].size) for name in self.weights]
        inside = [made.BufferT(data=np.frombuffer(data, np.uint8)) for data in self._constants]
        model.buffers = [made.BufferT(), *outside, *inside]
        return packed(model)

    @staticmethod
    def _operator_code(name: str) -> Any:
        code, made = getattr(schema().BuiltinOperator, name), schema().OperatorCodeT()
        # 127 stands for all later operators in the old field of 8 bits
        made.builtinCode, made.deprecatedBuiltinCode, made.version = code, min(code, 127), _VERSIONS.get(name, 1)
        return made

    def _subgraph(self, graph: Graph, quantization: Mapping[str, _Scales]) -> Any:
        subgraph = schema().SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = graph.key, graph.tensors, graph.nodes
        for name, value in graph.weights.items():
            if self.weights[name].is_rounded:
                subgraph.tensors[value.index].quantization = quantization[name]
        subgraph.inputs = [value.index for value in graph.inputs.values()]
        subgraph.outputs = [value.index for value in graph.outputs.values()]
        return subgraph

    @staticmethod
    def _signature(index: int, graph: Graph) -> Any:
        signature = schema().SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = graph.key, index
        for attribute in ("inputs", "outputs"):
            maps = [schema().TensorMapT() for _ in getattr(graph, attribute)]
            for entry, (name, value) in zip(maps, getattr(graph, attribute).items(), strict=True):
                entry.name, entry.tensorIndex = name, value.index
            setattr(signature, attribute, maps)
        return signature
