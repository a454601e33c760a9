"""The operators of a decoder: functions that add LiteRT nodes to a graph. Activations are float32."""

from __future__ import annotations

import numpy as np

from converters.litert.program import Graph, Shape, Value


def constant(g: Graph, *numbers: float) -> Value:
    """A float32 constant: a scalar if there is one number, otherwise a vector."""
    array = np.array(numbers, np.float32)
    return g.constant(array if len(numbers) > 1 else array.reshape(()))


def elementwise(g: Graph, operator: str, x: Value) -> Value:
    """Applies a unary operator, such as "RSQRT", to each element of `x`."""
    return g.node(operator, [x], x.shape)


def _binary(g: Graph, operator: str, options: str, a: Value, b: Value) -> Value:
    return g.node(operator, [a, b], tuple(np.broadcast_shapes(a.shape, b.shape)), options)


def add(g: Graph, a: Value, b: Value) -> Value:
    """The elementwise sum `a + b`, with broadcasting."""
    return _binary(g, "ADD", "AddOptions", a, b)


def subtract(g: Graph, a: Value, b: Value) -> Value:
    """The elementwise difference `a - b`, with broadcasting."""
    return _binary(g, "SUB", "SubOptions", a, b)


def multiply(g: Graph, a: Value, b: Value) -> Value:
    """The elementwise product `a * b`, with broadcasting."""
    return _binary(g, "MUL", "MulOptions", a, b)


def bounded(g: Graph, operator: str, x: Value, bound: float) -> Value:
    """The "MINIMUM" or "MAXIMUM" of each number and a bound."""
    return _binary(g, operator, "MaximumMinimumOptions", x, constant(g, bound))


def scaled(g: Graph, x: Value, factor: float) -> Value:
    """`x * factor`, or `x` itself if the factor is 1."""
    return x if factor == 1.0 else multiply(g, x, constant(g, factor))


def capped(g: Graph, x: Value, cap: float | None) -> Value:
    """The soft cap `cap * tanh(x / cap)`, or `x` itself if the cap is None."""
    return x if cap is None else scaled(g, elementwise(g, "TANH", scaled(g, x, 1 / cap)), cap)


def reshape(g: Graph, x: Value, shape: Shape) -> Value:
    """`x` in another shape; no node is added where it has that shape already."""
    if shape == x.shape:
        return x
    return g.node("RESHAPE", [x, g.constant(np.array(shape, np.int32))], shape, "ReshapeOptions", x.dtype)


def transpose(g: Graph, x: Value, axes: Shape) -> Value:
    """`x` with its axes permuted; no transposition is added where only axes of length 1 move."""
    shape = tuple(x.shape[axis] for axis in axes)
    moved = [axis for axis in axes if x.shape[axis] > 1]
    if moved == sorted(moved):
        return reshape(g, x, shape)
    return g.node("TRANSPOSE", [x, g.constant(np.array(axes, np.int32))], shape, "TransposeOptions", x.dtype)


def batch_matmul(g: Graph, a: Value, b: Value, *, transposed: bool) -> Value:
    """The batched product `a @ b`, or, if `transposed`, that of `a` and the transposed matrices of `b`."""
    shape = (*a.shape[:-1], b.shape[-2 if transposed else -1])
    return g.node("BATCH_MATMUL", [a, b], shape, "BatchMatMulOptions", adjY=transposed)


def softmax(g: Graph, x: Value) -> Value:
    """The softmax over the last axis."""
    return g.node("SOFTMAX", [x], x.shape, "SoftmaxOptions", beta=1.0)


def mean(g: Graph, x: Value) -> Value:
    """The mean over the last axis, which is kept with length 1."""
    axes = g.constant(np.array([len(x.shape) - 1], np.int32))
    return g.node("MEAN", [x, axes], (*x.shape[:-1], 1), "ReducerOptions", keepDims=True)


def norm(
    g: Graph, x: Value, epsilon: float, gain: Value, bias: Value | None = None, *, centred: bool = False
) -> Value:
    """RMS norm, or LayerNorm if `centred`, over the last axis: gain * x / sqrt(mean of squares + epsilon) + bias."""
    if centred:
        x = subtract(g, x, mean(g, x))
    squares = add(g, mean(g, multiply(g, x, x)), constant(g, epsilon))
    normed = multiply(g, multiply(g, x, elementwise(g, "RSQRT", squares)), gain)
    return normed if bias is None else add(g, normed, bias)


def activated(g: Graph, activation: str, x: Value) -> Value:
    match activation:
        case "silu":
            return multiply(g, x, elementwise(g, "LOGISTIC", x))
        case "gelu" | "gelu_tanh":
            return g.node("GELU", [x], x.shape, "GeluOptions", approximate=activation == "gelu_tanh")
        case "sigmoid":
            return elementwise(g, "LOGISTIC", x)
        case "relu2":
            positive = elementwise(g, "RELU", x)
            return multiply(g, positive, positive)
        case _:
            return elementwise(g, "RELU", x)


def lookup(g: Graph, ids: Value, table: Value) -> Value:
    """The rows of a table [rows, width] at the indices `ids`, int32 [n]."""
    return g.node("EMBEDDING_LOOKUP", [ids, table], (*ids.shape, table.shape[1]))


def update(g: Graph, cache: Value, new: Value, start: Value) -> Value:
    """`cache` with `new` written into it from the indices `start` on, int32, one for each axis."""
    return g.node("DYNAMIC_UPDATE_SLICE", [cache, new, start], cache.shape, "DynamicUpdateSliceOptions")
