"""ONNX Runtime's fused operators: the fewest nodes, and caches updated in place."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from converters.graph import MS_DOMAIN, GraphBuilder
from converters.operators import Attended, KeyValues, cast
from seap_export.families import LayerSpec

__all__ = ["LEFT_PADDING_GUARD", "FusedDialect"]

#: Name of the node that fails on a left-padded batch; the runtime's error message quotes it.
LEFT_PADDING_GUARD = "left_padding_is_not_supported_pad_on_the_right"


class FusedDialect:
    """com.microsoft operators; see `converters.dialects.Dialect`."""

    cache = "shared"

    def __init__(
        self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, cos_cache: ir.Value, sin_cache: ir.Value
    ) -> None:
        self._g, self._ids = g, ids
        self._rotary = (cos_cache, sin_cache)
        self._last, self._total = _positions(g, mask)

    def silu(self, x: ir.Value, name: str) -> ir.Value:
        """A single node: QuickGelu is `x * sigmoid(alpha * x)`."""
        return self._g.node("QuickGelu", [x], name, domain=MS_DOMAIN, attributes={"alpha": 1.0})

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """A product without a transposed copy of the table."""
        return self._g.node("FusedMatMul", [x, table], name, domain=MS_DOMAIN, attributes={"transB": 1})

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, gamma: ir.Value, epsilon: float, name: str, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """A single node."""
        inputs = [x, residual, gamma] if bias is None else [x, residual, gamma, bias]
        normed, _, _, stream = self._g.node_with_outputs(
            "SkipSimplifiedLayerNormalization",
            inputs,
            name,
            ["output", "", "", "residual"],
            domain=MS_DOMAIN,
            attributes={"epsilon": epsilon},
        )
        return normed, stream

    def attention(
        self, qkv: Sequence[ir.Value], past: KeyValues, layer: LayerSpec, head_dim: int, name: str
    ) -> Attended:
        """ONNX Runtime 1.23 lets a query see one position more than the window; 1.24 and later are exact."""
        query, key, value = qkv if len(qkv) == 3 else (qkv[0], None, None)
        attributes = {
            "num_heads": layer.num_attention_heads,
            "kv_num_heads": layer.num_key_value_heads,
            "do_rotary": 1,
            "rotary_interleaved": 0,
            "scale": head_dim**-0.5,
        }
        if layer.sliding_window is not None:
            attributes["local_window_size"] = layer.sliding_window
        output, present_key, present_value = self._g.node_with_outputs(
            "GroupQueryAttention",
            [query, key, value, past.key, past.value, self._last, self._total, *self._rotary],
            name,
            ["output", "present_key", "present_value"],
            domain=MS_DOMAIN,
            attributes=attributes,
        )
        return Attended(output, KeyValues(present_key, present_value))

    def last_places(self) -> ir.Value:
        """The last real token's position in a prompt, which may be padded; the end of the call in later calls."""
        g = self._g
        width = g.node("Shape", [self._ids], "last_token.width", attributes={"start": 1, "end": 2})
        end = g.node("Sub", [width, g.constant("one", np.array([1], np.int64))], "last_token.end")
        position = cast(g, self._last, ir.DataType.INT64, "last_token.position")
        return g.node("Min", [position, end], "last_token.place")


def _positions(g: GraphBuilder, mask: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Each row's last position, int32 [batch_size], and the width of the mask, an int32 scalar.

    GroupQueryAttention uses only the number of real tokens in each row, so a row padded on the left would be computed
    wrongly without an error. A guard prevents this: the 1 that is subtracted from the count is reshaped to
    [2 - min(mask[:, 0])], which fails in every runtime unless that is [1]. (An out-of-range Gather would not do: on a
    GPU it returns 0.)
    """
    one, two = (g.constant(name, np.array([value], np.int64)) for name, value in (("one", 1), ("two", 2)))
    first = g.node("Gather", [mask, g.constant("first", np.array(0, np.int64))], "mask.first", attributes={"axis": 1})
    lowest = g.node("ReduceMin", [first], "mask.first_lowest", attributes={"keepdims": 1})
    width = g.node("Sub", [two, lowest], "mask.guard_width")
    guarded = g.node("Reshape", [one, width], LEFT_PADDING_GUARD, attributes={"allowzero": 1})
    count = g.node("ReduceSum", [mask, one], "mask.count", attributes={"keepdims": 0})
    last = g.node("Sub", [count, guarded], "mask.last")
    total = g.node("Squeeze", [g.node("Shape", [mask], "mask.width", attributes={"start": 1, "end": 2})], "mask.total")
    return cast(g, last, ir.DataType.INT32, "last_position"), cast(g, total, ir.DataType.INT32, "total_length")
