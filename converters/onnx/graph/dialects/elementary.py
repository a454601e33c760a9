"""Attention with a soft cap on its scores, or with sinks, in elementary operators.

Attention of opset 23 has an attribute for a cap, but implementations differ: up to ONNX Runtime 1.24 the cap comes
after the mask, so that hidden keys are seen a little. It has none for sinks.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import Attended, KeyValues, capped, cast, multiply, scaled, split_heads
from seap_export.model.families import Attention


def elementary_attention(
    g: GraphBuilder,
    qkv: tuple[ir.Value, ir.Value, ir.Value],
    past: KeyValues,
    visible: ir.Value,
    attention: Attention,
    name: str,
    sinks: ir.Value | None,
) -> Attended:
    """Attention; the R = H / G query heads of each of the G KV heads are so many more queries of that head.

    Args:
        qkv: Queries, keys and values, [batch_size, sequence_length, heads * head_dim] each.
        visible: Which keys each query sees, bool [batch_size, 1, sequence_length, total_sequence_length].
        sinks: The sink of each head, [heads], in the dtype of the graph; None: there are none.
    """
    query, key, value = qkv
    heads, groups, head_dim = attention.num_attention_heads, attention.num_key_value_heads, attention.head_dim
    dtype = past.key.dtype
    assert dtype is not None
    present = KeyValues(
        *(
            _appended(g, old, new, groups, head_dim, f"{name}.{part}")
            for part, old, new in (("key", past.key, key), ("value", past.value, value))
        )
    )
    keys = _transposed(g, present.key, (0, 1, 3, 2), f"{name}.keys")
    query = scaled(g, query, attention.scale, dtype, f"{name}.query.scaled")
    query = _heads(g, query, heads, head_dim, f"{name}.query")
    query = split_heads(g, query, (0, groups, -1, head_dim), f"{name}.queries")  # [B, G, R * S, head_dim]
    scores = cast(g, g.node("MatMul", [query, keys], f"{name}.products"), ir.DataType.FLOAT, f"{name}.float32")
    scores = scores if attention.softcap is None else capped(g, scores, attention.softcap, f"{name}.capped")
    mask = g.node("Concat", [visible] * attention.heads_per_group, f"{name}.visible", attributes={"axis": 2})
    # Finite, as all stored numbers are; every token sees one key at least, so softmax makes 0 of it.
    hidden = g.constant("hidden", np.array(np.finfo(np.float32).min))
    scores = g.node("Where", [mask, scores, hidden], f"{name}.scores")
    weights = g.node("Softmax", [scores], f"{name}.weights")
    weights = cast(g, weights, dtype, f"{name}.narrow")
    attended = g.node("MatMul", [weights, present.value], f"{name}.attended")
    attended = split_heads(g, attended, (0, heads, -1, head_dim), f"{name}.attended.heads")
    if sinks is not None:
        attended = multiply(g, attended, _shares(g, scores, sinks, attention, dtype, name), f"{name}.attended.shared")
    attended = _transposed(g, attended, (0, 2, 1, 3), f"{name}.attended.transposed")
    return Attended(split_heads(g, attended, (0, 0, heads * head_dim), name), present)


def _shares(
    g: GraphBuilder, scores: ir.Value, sinks: ir.Value, attention: Attention, dtype: ir.DataType, name: str
) -> ir.Value:
    """The share of attention that the sink leaves to the keys, [batch_size, heads, sequence_length, 1].

    It is sigmoid(ln sum(exp(scores)) - sink).

    The softmax of the scores and the sink is that of the scores times it.
    """
    axis = g.ints(-1, name="last_axis_of_scores")
    total = g.node("ReduceLogSumExp", [scores, axis], f"{name}.total", attributes={"keepdims": 1})
    total = split_heads(g, total, (0, attention.num_attention_heads, -1, 1), f"{name}.total.heads")
    wide = cast(g, sinks, ir.DataType.FLOAT, f"{name}.sinks.float32")
    wide = split_heads(g, wide, (-1, 1, 1), f"{name}.sinks.heads")
    share = g.node("Sigmoid", [g.node("Sub", [total, wide], f"{name}.above_sinks")], f"{name}.share")
    return cast(g, share, dtype, f"{name}.share.narrow")


def _appended(g: GraphBuilder, past: ir.Value, new: ir.Value, heads: int, head_dim: int, name: str) -> ir.Value:
    """The cache [batch_size, heads, total_sequence_length, head_dim]."""
    new = _heads(g, new, heads, head_dim, name)
    return g.node("Concat", [past, new], f"{name}.cache", attributes={"axis": 2})


def _heads(g: GraphBuilder, x: ir.Value, heads: int, head_dim: int, name: str) -> ir.Value:
    """Splits the heads of `x`: [batch_size, heads, sequence_length, head_dim]."""
    return _transposed(g, split_heads(g, x, (0, 0, heads, head_dim), f"{name}.split"), (0, 2, 1, 3), f"{name}.heads")


def _transposed(g: GraphBuilder, x: ir.Value, order: tuple[int, ...], name: str) -> ir.Value:
    return g.node("Transpose", [x], name, attributes={"perm": order})
