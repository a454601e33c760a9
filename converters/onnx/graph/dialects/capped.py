"""Attention with a soft cap on its scores, in elementary operators.

Attention of opset 23 has an attribute for it, but implementations differ: up to ONNX Runtime 1.24 the cap comes after
the mask, so that hidden keys are seen a little.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.operators import Attended, KeyValues, capped, cast, scaled, split_heads
from seap_export.families import Attention

__all__ = ["capped_attention"]


def capped_attention(
    g: GraphBuilder,
    qkv: tuple[ir.Value, ir.Value, ir.Value],
    past: KeyValues,
    visible: ir.Value,
    attention: Attention,
    name: str,
) -> Attended:
    """Attention; the R = H / G query heads of each of the G KV heads are so many more queries of that head.

    Args:
        g: The graph.
        qkv: Queries, keys and values, [batch_size, sequence_length, heads * head_dim] each.
        past: The cache of the previous tokens.
        visible: Which keys each query sees, bool [batch_size, 1, sequence_length, total_sequence_length].
        attention: Gives the heads, and the scale and the soft cap of the scores.
        name: Name of the node that gives the output.
    """
    query, key, value = qkv
    heads, groups, head_dim = attention.num_attention_heads, attention.num_key_value_heads, attention.head_dim
    dtype = past.key.dtype
    assert attention.softcap is not None
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
    scores = capped(g, scores, attention.softcap, f"{name}.capped")
    mask = g.node("Concat", [visible] * attention.heads_per_group, f"{name}.visible", attributes={"axis": 2})
    # Finite, as all stored numbers are; every token sees one key at least, so softmax makes 0 of it.
    hidden = g.constant("hidden", np.array(np.finfo(np.float32).min))
    weights = g.node("Softmax", [g.node("Where", [mask, scores, hidden], f"{name}.scores")], f"{name}.weights")
    weights = cast(g, weights, dtype, f"{name}.narrow")
    attended = g.node("MatMul", [weights, present.value], f"{name}.attended")
    attended = split_heads(g, attended, (0, heads, -1, head_dim), f"{name}.attended.heads")
    attended = _transposed(g, attended, (0, 2, 1, 3), f"{name}.attended.transposed")
    return Attended(split_heads(g, attended, (0, 0, heads * head_dim), name), present)


def _appended(g: GraphBuilder, past: ir.Value, new: ir.Value, heads: int, head_dim: int, name: str) -> ir.Value:
    """The cache [batch_size, heads, total_sequence_length, head_dim]."""
    new = _heads(g, new, heads, head_dim, name)
    return g.node("Concat", [past, new], f"{name}.cache", attributes={"axis": 2})


def _heads(g: GraphBuilder, x: ir.Value, heads: int, head_dim: int, name: str) -> ir.Value:
    """[batch_size, heads, sequence_length, head_dim]."""
    return _transposed(g, split_heads(g, x, (0, 0, heads, head_dim), f"{name}.split"), (0, 2, 1, 3), f"{name}.heads")


def _transposed(g: GraphBuilder, x: ir.Value, order: tuple[int, ...], name: str) -> ir.Value:
    return g.node("Transpose", [x], name, attributes={"perm": order})
