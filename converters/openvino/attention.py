"""How the attention of the standard dialect is put to OpenVINO.

Its own translation repeats keys and values with Tile and looks for NaN in what attention gives; no plugin joins that
to one kernel. This is the form in which models exported from transformers come, and which plugins know: cache, new
keys, the repetition for grouped queries, ScaledDotProductAttention.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.openvino.packages import require

__all__ = ["attention_translation"]

_SWAPPED = (0, 2, 1, 3)


def attention_translation() -> Any:
    """An extension of OpenVINO's ONNX frontend that translates Attention nodes with a cache and a boolean mask."""
    frontend = require("openvino.frontend.onnx")
    return frontend.ConversionExtension("Attention", _attention)


def _attention(node: Any) -> list[Any]:
    """The output [batch, tokens, H * head_dim], and keys and values [batch, G, all tokens, head_dim]."""
    ops = require("openvino.opset15")
    query, key, value, visible, past_key, past_value = (node.get_input(place) for place in range(6))
    heads, groups = node.get_attribute("q_num_heads"), node.get_attribute("kv_num_heads")
    head_dim = past_key.get_partial_shape()[3].get_length()

    def split(x: Any, number: int) -> Any:
        return ops.transpose(ops.reshape(x, _ints(0, 0, number, head_dim), True), _ints(*_SWAPPED))

    def repeated(x: Any) -> Any:
        if groups == heads:
            return x
        factor = _ints(1, 1, heads // groups, 1, 1)
        more = ops.broadcast(ops.unsqueeze(x, _ints(2)), factor, broadcast_spec="BIDIRECTIONAL")
        return ops.reshape(more, _ints(0, heads, -1, head_dim), True)

    keys = ops.concat([past_key, split(key, groups)], 2)
    values = ops.concat([past_value, split(value, groups)], 2)
    scale = ops.constant(np.array(node.get_attribute("scale"), np.float32))
    attended = ops.scaled_dot_product_attention(split(query, heads), repeated(keys), repeated(values), visible, scale)
    output = ops.reshape(ops.transpose(attended, _ints(*_SWAPPED)), _ints(0, 0, heads * head_dim), True)
    return [output.output(0), keys.output(0), values.output(0)]


def _ints(*numbers: int) -> NDArray[np.int64]:
    return np.array(numbers, np.int64)
