"""Every operator of the decoder graph, each emitted in one place: here another dialect or precision plugs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from converters.graph import MS_DOMAIN, GraphBuilder

__all__ = [
    "LEFT_PADDING_GUARD",
    "Attended",
    "KeyValues",
    "Positions",
    "QuantizedWeight",
    "add",
    "attention",
    "cast",
    "embedding",
    "embedding_blocks",
    "last_token",
    "matmul",
    "matmul_blocks",
    "matmul_transposed",
    "multiply",
    "positions",
    "rms_norm",
    "silu",
    "skip_rms_norm",
    "split_heads",
]

#: The node that fails on a left-padded batch; a runtime's error message quotes its name.
LEFT_PADDING_GUARD = "left_padding_is_not_supported_pad_on_the_right"
#: MatMulNBits' level at which the CPU multiplies in int8, each block of activations scaled on its own: what makes
#: weight-only quantisation faster than float32 there. CUDA computes in the activations' dtype whatever it says.
_INT8_ACTIVATIONS = 4


@dataclass(frozen=True)
class Positions:
    """Where the tokens of a call stand, the same for all layers.

    Attributes:
        last: int32 [batch_size], the position of each row's last real token.
        total: int32 scalar, the width of the attention mask.
        cos_cache: [max_position_embeddings, head_dim / 2].
        sin_cache: [max_position_embeddings, head_dim / 2].
    """

    last: ir.Value
    total: ir.Value
    cos_cache: ir.Value
    sin_cache: ir.Value


@dataclass(frozen=True)
class QuantizedWeight:
    """A matrix quantised in blocks along its columns, as `converters.quantize` lays it out.

    Attributes:
        shape: Rows and columns.
        bits: 4 or 8.
        block_size: Columns that share a scale.
        packed: uint8 [rows, blocks, block_size * bits / 8].
        scales: [rows, blocks].
        zero_points: uint8 [rows, ceil(blocks * bits / 8)], or None: 2^(bits - 1) everywhere.
    """

    shape: tuple[int, int]
    bits: int
    block_size: int
    packed: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None


@dataclass(frozen=True)
class KeyValues:
    """A layer's cache: keys and values [batch_size, KV heads, positions, head_dim]."""

    key: ir.Value
    value: ir.Value


@dataclass(frozen=True)
class Attended:
    """What attention gives: the heads' output [batch_size, sequence_length, H * head_dim] and the new cache."""

    output: ir.Value
    present: KeyValues


def embedding(g: GraphBuilder, table: ir.Value, ids: ir.Value, name: str) -> ir.Value:
    """The rows of `table` [vocab, hidden] that `ids` name."""
    return g.node("Gather", [table, ids], name, attributes={"axis": 0})


def matmul(g: GraphBuilder, x: ir.Value, weight: ir.Value, name: str, bias: ir.Value | None = None) -> ir.Value:
    """`x @ weight + bias`, with `weight` stored [in, out]."""
    product = g.node("MatMul", [x, weight], name)
    return product if bias is None else add(g, product, bias, f"{name}.bias_add")


def matmul_transposed(g: GraphBuilder, x: ir.Value, weight: ir.Value, name: str) -> ir.Value:
    """`x @ weight.T`, with `weight` stored [out, in]: an embedding table that is the LM head as well."""
    return g.node("FusedMatMul", [x, weight], name, domain=MS_DOMAIN, attributes={"transB": 1})


def matmul_blocks(
    g: GraphBuilder, x: ir.Value, weight: QuantizedWeight, name: str, bias: ir.Value | None = None
) -> ir.Value:
    """`x @ weight.T + bias`, with `weight` quantised in blocks along its columns."""
    rows, columns = weight.shape
    attributes = {
        "N": rows,
        "K": columns,
        "bits": weight.bits,
        "block_size": weight.block_size,
        "accuracy_level": _INT8_ACTIVATIONS,
    }
    inputs = [x, weight.packed, weight.scales, weight.zero_points, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    return g.node("MatMulNBits", inputs, name, domain=MS_DOMAIN, attributes=attributes)


def embedding_blocks(g: GraphBuilder, table: QuantizedWeight, ids: ir.Value, name: str) -> ir.Value:
    """The rows of a quantised table [vocab, hidden] that `ids` name; blocks fill its rows exactly."""
    rows, columns = table.shape
    flat = g.constant(f"{name}.shape", np.array([rows, columns * table.bits // 8], np.int64))
    packed = g.node("Reshape", [table.packed, flat], f"{name}.rows")  # the same bytes as MatMulNBits reads
    inputs = [packed, ids, table.scales, table.zero_points]
    attributes = {"bits": table.bits, "block_size": table.block_size, "gather_axis": 0, "quantize_axis": 1}
    return g.node(
        "GatherBlockQuantized",
        inputs if table.zero_points is not None else inputs[:-1],
        name,
        domain=MS_DOMAIN,
        attributes=attributes,
    )


def last_token(g: GraphBuilder, x: ir.Value, at: Positions) -> ir.Value:
    """Of [batch_size, sequence_length, width] each row's last real token, [batch_size, 1, width].

    Its place in this call is its position in a prompt that may be padded, and the end of the call in all that follow.
    """
    one = g.constant("one", np.array([1], np.int64))
    width = g.node("Shape", [x], "last_token.width", attributes={"start": 1, "end": 2})
    end = g.node("Sub", [width, one], "last_token.end")
    place = g.node("Min", [cast(g, at.last, ir.DataType.INT64, "last_token.position"), end], "last_token.place")
    indices = g.node("Unsqueeze", [place, g.constant("axes_1_2", np.array([1, 2], np.int64))], "last_token.indices")
    return g.node("GatherND", [x, indices], "last_token", attributes={"batch_dims": 1})


def cast(g: GraphBuilder, x: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    """`x` in another dtype."""
    return g.node("Cast", [x], name, attributes={"to": int(dtype)})


def add(g: GraphBuilder, a: ir.Value, b: ir.Value, name: str) -> ir.Value:
    """`a + b`."""
    return g.node("Add", [a, b], name)


def multiply(g: GraphBuilder, a: ir.Value, b: ir.Value, name: str) -> ir.Value:
    """`a * b`."""
    return g.node("Mul", [a, b], name)


def silu(g: GraphBuilder, x: ir.Value, name: str) -> ir.Value:
    """`x * sigmoid(x)`, in one node: QuickGelu is `x * sigmoid(alpha * x)`."""
    return g.node("QuickGelu", [x], name, domain=MS_DOMAIN, attributes={"alpha": 1.0})


def rms_norm(g: GraphBuilder, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
    """RMS norm over the last axis."""
    attributes = {"axis": -1, "epsilon": epsilon, "stash_type": int(ir.DataType.FLOAT)}
    return g.node("RMSNormalization", [x, gamma], name, attributes=attributes)


def skip_rms_norm(
    g: GraphBuilder,
    x: ir.Value,
    residual: ir.Value,
    gamma: ir.Value,
    epsilon: float,
    name: str,
    bias: ir.Value | None = None,
) -> tuple[ir.Value, ir.Value]:
    """The RMS norm of `x + residual + bias`, and that sum: the residual stream from here on."""
    inputs = [x, residual, gamma] if bias is None else [x, residual, gamma, bias]
    normed, _, _, stream = g.node_with_outputs(
        "SkipSimplifiedLayerNormalization",
        inputs,
        name,
        ["output", "", "", "residual"],
        domain=MS_DOMAIN,
        attributes={"epsilon": epsilon},
    )
    return normed, stream


def split_heads(g: GraphBuilder, x: ir.Value, shape: Sequence[int], name: str) -> ir.Value:
    """Reshapes [batch_size, sequence_length, width]; a 0 in `shape` keeps the dimension that stands there."""
    label = "shape_" + "_".join(map(str, shape)).replace("-", "minus")
    return g.node("Reshape", [x, g.constant(label, np.array(shape, np.int64))], name)


def attention(
    g: GraphBuilder,
    qkv: Sequence[ir.Value],
    past: KeyValues,
    at: Positions,
    *,
    heads: int,
    kv_heads: int,
    head_dim: int,
    window: int | None,
    name: str,
) -> Attended:
    """Causal attention with rotation and cache.

    ONNX Runtime 1.23 lets a query see one position more than the window; from 1.24 on it is exact.

    Args:
        g: The graph.
        qkv: Queries, keys and values side by side in one value, or as three, [batch_size, sequence_length, ...].
        past: The cache of the tokens before.
        at: The tokens' positions.
        heads: Query heads.
        kv_heads: Key/value heads.
        head_dim: Width of a head.
        window: Positions a query sees, itself included; None: all before it.
        name: Name of the node.
    """
    query, key, value = qkv if len(qkv) == 3 else (qkv[0], None, None)
    attributes = {
        "num_heads": heads,
        "kv_num_heads": kv_heads,
        "do_rotary": 1,
        "rotary_interleaved": 0,
        "scale": head_dim**-0.5,
    }
    if window is not None:
        attributes["local_window_size"] = window
    output, present_key, present_value = g.node_with_outputs(
        "GroupQueryAttention",
        [query, key, value, past.key, past.value, at.last, at.total, at.cos_cache, at.sin_cache],
        name,
        ["output", "present_key", "present_value"],
        domain=MS_DOMAIN,
        attributes=attributes,
    )
    return Attended(output, KeyValues(present_key, present_value))


def positions(g: GraphBuilder, mask: ir.Value, cos_cache: ir.Value, sin_cache: ir.Value) -> Positions:
    """Derives the positions from the attention mask, int64 [batch_size, total_sequence_length].

    GroupQueryAttention takes from each row only how many tokens are real, so a row padded on the left would
    be computed wrongly without a word. A guard therefore stands in the way of the count: the 1 that is
    subtracted from it is reshaped to [2 - min(mask[:, 0])], which no runtime can do unless that is [1]. (An
    out-of-range Gather would not do: on a GPU it gives 0.)
    """
    one, two = (g.constant(name, np.array([value], np.int64)) for name, value in (("one", 1), ("two", 2)))
    first = g.node("Gather", [mask, g.constant("first", np.array(0, np.int64))], "mask.first", attributes={"axis": 1})
    lowest = g.node("ReduceMin", [first], "mask.first_lowest", attributes={"keepdims": 1})
    width = g.node("Sub", [two, lowest], "mask.guard_width")
    guarded = g.node("Reshape", [one, width], LEFT_PADDING_GUARD, attributes={"allowzero": 1})
    count = g.node("ReduceSum", [mask, one], "mask.count", attributes={"keepdims": 0})
    last = g.node("Sub", [count, guarded], "mask.last")
    total = g.node("Squeeze", [g.node("Shape", [mask], "mask.width", attributes={"start": 1, "end": 2})], "mask.total")
    last_position, total_length = (
        cast(g, value, ir.DataType.INT32, name) for value, name in ((last, "last_position"), (total, "total_length"))
    )
    return Positions(last_position, total_length, cos_cache, sin_cache)
