"""The operators of a decoder: functions that add XNNPACK nodes to a graph. Values are float32."""

from __future__ import annotations

import numpy as np

from converters.executorch.graph import TOKENS, Graph, Shape, Value


def _unary(g: Graph, operator: str, x: Value, bounds: tuple[float, float] | None = None) -> Value:
    return g.node(operator, x.shape, bounds, input_id=x.index)


def _binary(g: Graph, operator: str, a: Value, b: Value) -> Value:
    return g.node(operator, tuple(np.broadcast_shapes(a.shape, b.shape)), input1_id=a.index, input2_id=b.index)


def add(g: Graph, a: Value, b: Value) -> Value:
    """The elementwise sum `a + b`, with broadcasting."""
    return _binary(g, "Add", a, b)


def multiply(g: Graph, a: Value, b: Value) -> Value:
    """The elementwise product `a * b`, with broadcasting."""
    return _binary(g, "Multiply", a, b)


def scaled(g: Graph, x: Value, factor: float) -> Value:
    """`x * factor`, or `x` itself if the factor is 1."""
    return x if factor == 1.0 else multiply(g, x, g.number(factor))


def capped(g: Graph, x: Value, cap: float | None) -> Value:
    """The soft cap `cap * tanh(x / cap)`, or `x` itself if the cap is None."""
    return x if cap is None else scaled(g, _unary(g, "Tanh", scaled(g, x, 1 / cap)), cap)


def reshape(g: Graph, x: Value, shape: Shape) -> Value:
    """`x` in another shape, whose second axis is the tokens; no node is added where it has that shape already."""
    if shape == x.shape:
        return x
    assert shape[1] == TOKENS
    return g.node("StaticReshape", shape, num_dims=len(shape), new_shape=[1, 0, *shape[2:]], input_id=x.index)


def _mean(g: Graph, x: Value, more: float = 0.0) -> Value:
    """The mean over the last axis, kept with length 1, plus `more`: XNNPACK has none, so that it is a product."""
    share = g.constant(np.full((1, x.shape[-1]), 1 / x.shape[-1], np.float32))
    return g.linear(x, share, g.constant(np.array([more], np.float32)) if more else None)


def norm(
    g: Graph, x: Value, epsilon: float, gain: Value, bias: Value | None = None, *, centred: bool = False
) -> Value:
    """RMS norm, or LayerNorm if `centred`, over the last axis: gain * x / sqrt(mean of squares + epsilon) + bias."""
    if centred:
        x = _binary(g, "Subtract", x, _mean(g, x))
    squares = _mean(g, _unary(g, "Square", x), epsilon)
    normed = multiply(g, multiply(g, x, _unary(g, "ReciprocalSquareRoot", squares)), gain)
    return normed if bias is None else add(g, normed, bias)


def activated(g: Graph, activation: str, x: Value) -> Value:
    match activation:
        case "silu":
            return multiply(g, x, _unary(g, "Sigmoid", x))
        case "gelu":
            return _unary(g, "Gelu", x)
        case "gelu_tanh":
            cube = multiply(g, _unary(g, "Square", x), scaled(g, x, 0.044715))
            inner = _unary(g, "Tanh", scaled(g, add(g, x, cube), float(np.sqrt(2 / np.pi))))
            return multiply(g, scaled(g, x, 0.5), add(g, inner, g.number(1.0)))
        case "sigmoid":
            return _unary(g, "Sigmoid", x)
        case "relu2":
            return _unary(g, "Square", _unary(g, "Clamp", x, (0.0, np.inf)))
        case _:
            return _unary(g, "Clamp", x, (0.0, np.inf))
