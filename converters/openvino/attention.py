"""Translates attention to the form that OpenVINO's plugins know, and that its paged attention replaces."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.openvino.packages import require

_SWAPPED = (0, 2, 1, 3)
#: Inputs of attention that has no cache of its own.
_BORROWING = 4


def attention_translation(paged_heads: int | None) -> Any:
    """An extension of OpenVINO's ONNX frontend that translates Attention nodes with a cache and a boolean mask.

    Its own translation repeats keys and values with Tile and looks for NaN in what attention gives; no plugin joins
    that to one kernel. This is the form in which models exported from transformers come, and which plugins know:
    cache, new keys, the repetition for grouped queries, ScaledDotProductAttention. For `paged_heads`, see
    `converters.openvino.tensors.Graph`.
    """
    frontend = require("openvino.frontend.onnx")
    return frontend.ConversionExtension("Attention", lambda node: _attention(node, paged_heads))


def ints(*numbers: int) -> NDArray[np.int64]:
    """An int64 vector of these numbers, which operators take as a constant."""
    return np.array(numbers, np.int64)


def _attention(node: Any, paged_heads: int | None) -> list[Any]:
    """Translates a node to [batch, tokens, H * head_dim], and keys and values [batch, G, all tokens, head_dim].

    With `paged_heads`, heads of zeros are appended to each group, and groups of them to the groups.
    """
    ops = require("openvino.opset15")
    if node.get_input_size() == _BORROWING:
        return [_attention_to(ops, node)]
    query, key, value, visible, past_key, past_value = (node.get_input(index) for index in range(6))
    heads, groups = node.get_attribute("q_num_heads"), node.get_attribute("kv_num_heads")
    head_dim = past_key.get_partial_shape()[3].get_length()
    all_heads = paged_heads or heads
    all_groups = _groups(all_heads, heads, groups)
    width, all_width = heads // groups * head_dim, all_heads // all_groups * head_dim
    is_filled = all_heads != heads or all_groups != groups

    def split(x: Any, number: int) -> Any:
        return ops.transpose(ops.reshape(x, ints(0, 0, number, head_dim), True), ints(*_SWAPPED))

    def filled(x: Any, further: int) -> Any:
        grouped = ops.reshape(x, ints(0, 0, groups, -1), True)
        ends = ints(0, 0, all_groups - groups, further)
        return ops.pad(grouped, ints(0, 0, 0, 0), ends, "constant", np.array(0, np.float32))

    def cached(past: Any, x: Any) -> Any:
        if all_groups == groups:
            return ops.concat([past, split(x, groups)], 2)
        shape = past.get_partial_shape()
        shape[1] = all_groups
        past.get_node().set_partial_shape(shape)
        past.get_node().validate_and_infer_types()
        return ops.concat([past, split(filled(x, 0), all_groups)], 2)

    def repeated(x: Any) -> Any:
        if all_groups == all_heads:
            return x
        factor = ints(1, 1, all_heads // all_groups, 1, 1)
        more = ops.broadcast(ops.unsqueeze(x, ints(2)), factor, broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(more, ints(0, all_heads, -1, head_dim), True)

    keys, values = cached(past_key, key), cached(past_value, value)
    queries = split(filled(query, all_width - width) if is_filled else query, all_heads)
    scale = ops.constant(np.array(node.get_attribute("scale"), np.float32))
    attended = ops.scaled_dot_product_attention(queries, repeated(keys), repeated(values), visible, scale)
    output = ops.transpose(attended, ints(*_SWAPPED))
    if is_filled:
        output = ops.reshape(output, ints(0, 0, all_groups, all_width), True)
        output = ops.slice(output, ints(0, 0), ints(groups, width), ints(1, 1), ints(2, 3))
    output = ops.reshape(output, ints(0, 0, heads * head_dim), True)
    return [output.output(0), keys.output(0), values.output(0)]


def _attention_to(ops: Any, node: Any) -> Any:
    """Translates attention to keys and values of another layer, [batch, heads, tokens, head_dim] all."""
    query, key, value, visible = (node.get_input(index) for index in range(_BORROWING))
    heads, groups, head_dim = (
        shape.get_partial_shape()[axis].get_length() for shape, axis in ((query, 1), (key, 1), (key, 3))
    )

    def repeated(x: Any) -> Any:
        factor = ints(1, 1, heads // groups, 1, 1)
        more = ops.broadcast(ops.unsqueeze(x, ints(2)), factor, broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(more, ints(0, heads, -1, head_dim), True)

    scale = ops.constant(np.array(node.get_attribute("scale"), np.float32))
    return ops.scaled_dot_product_attention(query, repeated(key), repeated(value), visible, scale).output(0)


def _groups(all_heads: int, heads: int, groups: int) -> int:
    """The fewest groups that divide `all_heads` and have room for a layer's: as many, of as many heads each."""
    return next(
        number
        for number in range(groups, all_heads + 1)
        if all_heads % number == 0 and all_heads // number >= heads // groups
    )
