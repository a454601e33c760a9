"""Attention with a soft cap on its scores, in elementary operators.

Attention of opset 23 has an attribute for it, but implementations differ: up to ONNX Runtime 1.24 the cap comes after
the mask, so that hidden keys are seen a little.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.graph import GraphBuilder
from converters.operators import Attended, KeyValues, capped, cast, scaled, split_heads
from seap_export.families import BlockSpec, LayerSpec

__all__ = ["capped_attention"]


def capped_attention(
    g: GraphBuilder,
    qkv: tuple[ir.Value, ir.Value, ir.Value],
    past: KeyValues,
    visible: ir.Value,
    layer: LayerSpec,
    block: BlockSpec,
    head_dim: int,
    name: str,
) -> Attended:
    """Attention over R = H / G query heads for each of the G KV heads.

    Args:
        g: The graph.
        qkv: Queries, keys and values, [batch_size, sequence_length, heads * head_dim] each.
        past: The cache of the previous tokens.
        visible: Which keys each query sees, bool [batch_size, 1, sequence_length, total_sequence_length].
        layer: Gives the head counts.
        block: Gives the scale and the soft cap of the scores.
        head_dim: Size of a head.
        name: Name of the node that gives the output.
    """
    query, key, value = qkv
    groups, per_group, dtype = layer.num_key_value_heads, layer.heads_per_group, past.key.dtype
    assert block.attention_softcap is not None
    assert dtype is not None
    present = KeyValues(
        *(
            _appended(g, old, new, groups, head_dim, f"{name}.{part}")
            for part, old, new in (("key", past.key, key), ("value", past.value, value))
        )
    )
    axis = g.constant("last_axis", np.array([2], np.int64))
    keys = _transposed(g, present.key, (0, 1, 3, 2), f"{name}.key.transposed")
    keys, values = (
        g.node("Unsqueeze", [own, axis], f"{name}.{part}s") for own, part in ((keys, "key"), (present.value, "value"))
    )
    query = scaled(g, query, block.attention_scale, dtype, f"{name}.query.scaled")
    query = split_heads(g, query, (0, 0, groups, per_group, head_dim), f"{name}.query.split")
    query = _transposed(g, query, (0, 2, 3, 1, 4), f"{name}.query.transposed")  # [B, G, R, S, head_dim]
    scores = cast(g, g.node("MatMul", [query, keys], f"{name}.products"), ir.DataType.FLOAT, f"{name}.float32")
    scores = capped(g, scores, block.attention_softcap, f"{name}.capped")
    mask = g.node("Unsqueeze", [visible, g.constant("one", np.array([1], np.int64))], f"{name}.visible")
    hidden = g.constant("hidden", np.array(-np.inf, np.float32))
    weights = g.node("Softmax", [g.node("Where", [mask, scores, hidden], f"{name}.scores")], f"{name}.weights")
    weights = cast(g, weights, dtype, f"{name}.narrow")
    attended = g.node("MatMul", [weights, values], f"{name}.attended")
    attended = _transposed(g, attended, (0, 3, 1, 2, 4), f"{name}.attended.transposed")
    width = layer.num_attention_heads * head_dim
    return Attended(split_heads(g, attended, (0, 0, width), name), present)


def _appended(g: GraphBuilder, past: ir.Value, new: ir.Value, heads: int, head_dim: int, name: str) -> ir.Value:
    """The cache [batch_size, heads, total_sequence_length, head_dim]."""
    new = _transposed(g, split_heads(g, new, (0, 0, heads, head_dim), f"{name}.split"), (0, 2, 1, 3), f"{name}.new")
    return g.node("Concat", [past, new], f"{name}.cache", attributes={"axis": 2})


def _transposed(g: GraphBuilder, x: ir.Value, order: tuple[int, ...], name: str) -> ir.Value:
    return g.node("Transpose", [x], name, attributes={"perm": order})
