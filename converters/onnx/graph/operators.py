"""Operators that all dialects write the same way, each emitted in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from seap_export.model.families.sublayers import Activation


@dataclass(frozen=True)
class KeyValues:
    """A layer's cache: keys and values [batch_size, KV heads, positions, head_dim]."""

    key: ir.Value
    value: ir.Value


@dataclass(frozen=True)
class Attended:
    """The output of attention, [batch_size, sequence_length, H * head_dim], and the new cache."""

    output: ir.Value
    present: KeyValues


@dataclass(frozen=True)
class Norm:
    """A norm of the residual stream.

    Attributes:
        gain: [hidden_size].
        bias: [hidden_size]; None: there is none.
    """

    name: str
    gain: ir.Value
    bias: ir.Value | None
    epsilon: float
    is_centred: bool


@dataclass(frozen=True)
class Kernels:
    """The kernels of a depth-wise convolution.

    Attributes:
        weight: [channels, 1, size].
        bias: [channels]; None: there is none.
    """

    weight: ir.Value
    bias: ir.Value | None
    channels: int
    size: int
    activates: bool = False


@dataclass(frozen=True)
class Recurrence:
    """The inputs of a recurrence, [batch_size, sequence_length, heads * channels] each, and its sizes.

    The state S [key_dim, value_dim] of a head becomes exp(decay) S, is corrected by key (value - S^T key)^T times the
    rate, or key value^T is added if there is no rate, and gives scale S^T query.

    Attributes:
        query: Queries of `groups` heads.
        key: Keys of `groups` heads, each of which is read by the same number of value heads.
        value: Values of `heads` heads.
        decay: Logarithms of the factors on the states, [batch_size, sequence_length, heads].
        rate: Rate of the corrections, [batch_size, sequence_length, heads]; None: there are no corrections.
        groups: Number of heads of queries and keys.
        heads: Number of states.
        key_dim: Channels of a query and of a key.
        scale: Factor on the output.
    """

    query: ir.Value
    key: ir.Value
    value: ir.Value
    decay: ir.Value
    rate: ir.Value | None
    groups: int
    heads: int
    key_dim: int
    value_dim: int
    scale: float


@dataclass(frozen=True)
class Recurred:
    """The output of a recurrence, [batch_size, sequence_length, heads * value_dim], and its new state,
    [batch_size, heads, key_dim, value_dim].
    """

    output: ir.Value
    present: ir.Value


@dataclass(frozen=True)
class Convolved:
    """The output of a convolution, [batch_size, sequence_length, channels], and its new state."""

    output: ir.Value
    present: ir.Value


def embedding(g: GraphBuilder, table: ir.Value, ids: ir.Value, name: str) -> ir.Value:
    """Looks up the rows `ids` of `table` [vocab, hidden]."""
    return g.node("Gather", [table, ids], name, attributes={"axis": 0})


def matmul(g: GraphBuilder, x: ir.Value, weight: ir.Value, name: str, bias: ir.Value | None = None) -> ir.Value:
    """`x @ weight + bias`, with `weight` stored [in, out]."""
    product = g.node("MatMul", [x, weight], name)
    return product if bias is None else add(g, product, bias, f"{name}.bias_add")


def cast(g: GraphBuilder, x: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    return g.node("Cast", [x], name, attributes={"to": int(dtype)})


def add(g: GraphBuilder, a: ir.Value, b: ir.Value, name: str) -> ir.Value:
    return g.node("Add", [a, b], name)


def activation(g: GraphBuilder, kind: Activation, x: ir.Value, name: str) -> ir.Value:
    """An activation function that the standard has an operator for, or its square."""
    match kind:
        case "gelu_tanh":
            return g.node("Gelu", [x], name, attributes={"approximate": "tanh"})
        case "gelu":
            return g.node("Gelu", [x], name)
        case "relu2":
            positive = g.node("Relu", [x], f"{name}.relu")
            return multiply(g, positive, positive, name)
        case "sigmoid":
            return g.node("Sigmoid", [x], name)
        case "relu":
            return g.node("Relu", [x], name)
        case _:
            raise ValueError(f"the standard has no operator for {kind}")


def multiply(g: GraphBuilder, a: ir.Value, b: ir.Value, name: str) -> ir.Value:
    return g.node("Mul", [a, b], name)


def scaled(g: GraphBuilder, x: ir.Value, factor: float, dtype: ir.DataType, name: str) -> ir.Value:
    """`x * factor`, with `x` of the given dtype; no node if the factor is 1."""
    return x if factor == 1.0 else multiply(g, x, scalar(g, factor, dtype), name)


def capped(g: GraphBuilder, x: ir.Value, cap: float, name: str) -> ir.Value:
    """`cap * tanh(x / cap)` of a float32 `x`."""
    bound = scalar(g, cap, ir.DataType.FLOAT)
    tanh = g.node("Tanh", [g.node("Div", [x, bound], f"{name}.ratio")], f"{name}.tanh")
    return multiply(g, tanh, bound, name)


def scalar(g: GraphBuilder, value: float, dtype: ir.DataType) -> ir.Value:
    """A number as a constant without dimensions."""
    return g.constant(f"{dtype.name.lower()}_{value!r}", np.array(value, dtype.numpy()))


def rms_norm(g: GraphBuilder, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
    """RMS norm over the last axis."""
    attributes = {"axis": -1, "epsilon": epsilon, "stash_type": int(ir.DataType.FLOAT)}
    return g.node("RMSNormalization", [x, gamma], name, attributes=attributes)


def normed(g: GraphBuilder, x: ir.Value, norm: Norm) -> ir.Value:
    """A norm of the residual stream, over the last axis."""
    if not norm.is_centred:
        return rms_norm(g, x, norm.gain, norm.epsilon, norm.name)
    attributes = {"axis": -1, "epsilon": norm.epsilon, "stash_type": int(ir.DataType.FLOAT)}
    inputs = [x, norm.gain] if norm.bias is None else [x, norm.gain, norm.bias]
    return g.node("LayerNormalization", inputs, norm.name, attributes=attributes)


def split(
    g: GraphBuilder, x: ir.Value, sizes: Sequence[int], name: str, outputs: Sequence[str]
) -> tuple[ir.Value, ...]:
    """Splits the last axis into parts of these sizes, named `{name}.{output}`."""
    constant = g.ints(*sizes, name="sizes_" + "_".join(map(str, sizes)))
    return g.node_with_outputs("Split", [x, constant], name, outputs, attributes={"axis": -1})


def split_heads(g: GraphBuilder, x: ir.Value, shape: Sequence[int], name: str) -> ir.Value:
    """Reshapes [batch_size, sequence_length, width]; a 0 in `shape` keeps the dimension at that place."""
    label = "shape_" + "_".join(map(str, shape)).replace("-", "minus")
    return g.node("Reshape", [x, g.ints(*shape, name=label)], name)


def rows_at(g: GraphBuilder, x: ir.Value, columns: ir.Value, name: str) -> ir.Value:
    """Selects a column (int64 [batch_size]) of each row of [batch_size, length, width], as [batch_size, 1, width]."""
    indices = g.node("Unsqueeze", [columns, g.ints(1, 2, name="axes_1_2")], f"{name}.indices")
    return g.node("GatherND", [x, indices], name, attributes={"batch_dims": 1})
