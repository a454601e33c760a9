"""ONNX Runtime's fused operators: the fewest nodes, and caches updated in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects.convolved import ConvolutionStates, swapped
from converters.onnx.graph.dialects.looped import is_looped, looped_experts
from converters.onnx.graph.dialects.mixtures import ExpertWeights, Routed, fused_experts
from converters.onnx.graph.graph import MS_DOMAIN, GraphBuilder
from converters.onnx.graph.rotary import RotaryTables
from seap_export.families import Attention, Experts, RopeSpec
from seap_export.families.sublayers import Activation

__all__ = ["LEFT_PADDING_GUARD", "FusedDialect"]

#: Name of the node that fails on a left-padded batch; the runtime's error message quotes it.
LEFT_PADDING_GUARD = "left_padding_is_not_supported_pad_on_the_right"
#: GroupQueryAttention rotates only heads whose size, and whose number of rotated channels, is a multiple of this.
_ROTATED_MULTIPLE = 16


class FusedDialect:
    """com.microsoft operators; see `converters.onnx.graph.dialects.Dialect`."""

    cache = "shared"
    state_dtype = ir.DataType.FLOAT

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> None:
        self._g, self._ids, self._tables = g, ids, tables
        self._last64 = self._counted(mask)
        width = g.node("Shape", [mask], "mask.width", attributes={"start": 1, "end": 2})
        total = g.node("Squeeze", [width], "mask.total")
        self._last = op.cast(g, self._last64, ir.DataType.INT32, "last_position")
        self._total = op.cast(g, total, ir.DataType.INT32, "total_length")
        self._states = ConvolutionStates(g, lambda: self._ends)

    def gated(self, kind: Activation, gate: ir.Value, up: ir.Value, width: int, name: str) -> ir.Value:
        """Two nodes."""
        return op.multiply(self._g, self.activated(kind, gate, name.replace("gated", kind)), up, name)

    def activated(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """QuickGelu is `x * sigmoid(alpha * x)`, FastGelu the tanh approximation of GELU."""
        match kind:
            case "silu":
                return self._g.node("QuickGelu", [x], name, domain=MS_DOMAIN, attributes={"alpha": 1.0})
            case "gelu_tanh":
                return self._g.node("FastGelu", [x], name, domain=MS_DOMAIN)
            case _:
                return op.activation(self._g, kind, x, name)

    def experts(self, experts: Experts, x: ir.Value, routed: Routed, weights: ExpertWeights, name: str) -> ir.Value:
        """A single node, where there is one that computes them."""
        emitted = looped_experts if is_looped(experts) else fused_experts
        return emitted(self._g, experts, x, routed, weights, name)

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """A product without a transposed copy of the table."""
        return self._g.node("FusedMatMul", [x, table], name, domain=MS_DOMAIN, attributes={"transB": 1})

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, norm: op.Norm, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """A single node."""
        inputs = [x, residual, norm.gain, *([norm.bias] if norm.is_centred else []), bias]
        while inputs[-1] is None:
            inputs.pop()
        normed, _, _, stream = self._g.node_with_outputs(
            "SkipLayerNormalization" if norm.is_centred else "SkipSimplifiedLayerNormalization",
            inputs,
            norm.name,
            ["output", "", "", "residual"],
            domain=MS_DOMAIN,
            attributes={"epsilon": norm.epsilon},
        )
        return normed, stream

    def head_norm(self, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
        """The operator of the standard."""
        return op.rms_norm(self._g, x, gamma, epsilon, name)

    def attention_rotates(self, rope: RopeSpec, head_dim: int) -> bool:
        """Not by longrope's second table: on CUDA, GroupQueryAttention skips positions beyond the cache."""
        is_aligned = head_dim % _ROTATED_MULTIPLE == 0 and rope.dim % _ROTATED_MULTIPLE == 0
        return is_aligned and self._tables.switch(rope) is None

    def rotated(self, x: ir.Value, attention: Attention, heads: int, name: str) -> ir.Value:
        """A single node."""
        rope = attention.rope
        assert rope is not None
        inputs = [x, self._rows(rope), *self._tables.caches(rope)]
        attributes = self._tables.attributes(rope, heads, attention.head_dim)
        return self._g.node("RotaryEmbedding", inputs, f"{name}.rotated", domain=MS_DOMAIN, attributes=attributes)

    def position_rows(self, offset: int) -> ir.Value:
        """Guarded, since a GPU would read past the table."""
        positions, last = self._call_positions
        return self._tables.learned_rows(offset, positions, lambda: last)

    def positions(self) -> ir.Value:
        """As GroupQueryAttention counts them: a row's tokens end at its last position, or begin at 0 in a prompt."""
        return self._call_positions[0]

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: op.KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> op.Attended:
        """ONNX Runtime 1.23 lets a query see one position more than the window; 1.24 and later are exact."""
        query, key, value = qkv if len(qkv) == 3 else (qkv[0], None, None)
        attributes = _attributes(attention)
        tables = (None, None) if attention.rope is None else self._tables.caches(attention.rope)
        output, present_key, present_value = self._g.node_with_outputs(
            "GroupQueryAttention",
            [query, key, value, past.key, past.value, self._last, self._total, *tables, None, None, sinks],
            name,
            ["output", "present_key", "present_value"],
            domain=MS_DOMAIN,
            attributes=attributes,
        )
        return op.Attended(output, op.KeyValues(present_key, present_value))

    def attention_to(self, query: ir.Value, cache: op.KeyValues, attention: Attention, name: str) -> ir.Value:
        """The same operator with no keys and values to be added to the cache, whose buffer it only reads."""
        g, width = self._g, attention.num_key_value_heads * attention.head_dim
        start, end = g.ints(0, 0, name="starts"), g.ints(0, width, name=f"none_of_{width}")
        axes = g.ints(1, 2, name="axes_1_2")
        nothing = g.node("Slice", [query, start, end, axes], f"{name}.nothing")
        inputs = [query, nothing, nothing, cache.key, cache.value, self._last, self._total]
        attributes = _attributes(replace(attention, rope=None))
        return g.node("GroupQueryAttention", inputs, name, domain=MS_DOMAIN, attributes=attributes)

    def convolution(self, x: ir.Value, past: ir.Value, kernels: op.Kernels, name: str) -> op.Convolved:
        """A single node and its transposed input and output; the state that it gives counts padding, too."""
        values = swapped(self._g, x, f"{name}.channels_first")
        output, _ = self._g.node_with_outputs(
            "CausalConvWithState",
            [values, kernels.weight, kernels.bias, past],
            name,
            ["output", "state_of_last_columns"],
            domain=MS_DOMAIN,
            attributes={"activation": "silu"} if kernels.activates else {},
        )
        joined = self._states.joined(past, values, f"{name}.joined")
        present = self._states.after(joined, kernels, f"{name}.present")
        return op.Convolved(swapped(self._g, output, f"{name}.channels_last"), present)

    def recurrence(self, parts: op.Recurrence, past: ir.Value, name: str) -> op.Recurred:
        """A single node."""
        inputs = [parts.query, parts.key, parts.value, past, parts.decay, parts.rate]
        output, present = self._g.node_with_outputs(
            "LinearAttention",
            inputs if parts.rate is not None else inputs[:-1],
            name,
            ["output", "present"],
            domain=MS_DOMAIN,
            attributes={
                "q_num_heads": parts.groups,
                "kv_num_heads": parts.heads,
                "update_rule": "gated" if parts.rate is None else "gated_delta",
                "scale": parts.scale,
            },
        )
        return op.Recurred(output, present)

    def decays(
        self, x: ir.Value, bias: ir.Value, factor: ir.Value, rate: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value | None]:
        """A single node."""
        inputs, outputs = [x, bias, factor, rate], ["decay", "rate"]
        number = len(inputs) if rate is not None else -1
        values = self._g.node_with_outputs(
            "LinearAttentionGate", inputs[:number], name, outputs[: 1 + (rate is not None)], domain=MS_DOMAIN
        )
        return values[0], None if rate is None else values[1]

    def gated_norm(
        self, x: ir.Value, gain: ir.Value, gate: ir.Value, width: int, epsilon: float, name: str
    ) -> ir.Value:
        """A single node, which computes in float32."""
        attributes = {"activation": "silu", "epsilon": epsilon}
        return self._g.node("GatedRMSNorm", [x, gain, gate], name, domain=MS_DOMAIN, attributes=attributes)

    @cached_property
    def real(self) -> ir.Value:
        """Those up to the last one of the call."""
        g, one = self._g, self._g.ints(1, name="one")
        ends = g.node("Unsqueeze", [self._ends, one], "input_ids.end")
        real = g.node("LessOrEqual", [self._columns, ends], "input_ids.is_real")
        axis = g.ints(2, name="last_axis")
        return g.node("Unsqueeze", [real, axis], "input_ids.real")

    @cached_property
    def _columns(self) -> ir.Value:
        """1, 2, ... for the columns of this call, int64 [batch_size, sequence_length]."""
        g, step = self._g, self._g.integer(1, "step")
        same = g.node("Equal", [self._ids, self._ids], "input_ids.same")
        return g.node("CumSum", [op.cast(g, same, ir.DataType.INT64, "input_ids.ones"), step], "positions.counted")

    @cached_property
    def _ends(self) -> ir.Value:
        g = self._g
        return op.add(g, self.last_columns, g.ints(1, name="one"), "last_token.columns")

    @cached_property
    def last_columns(self) -> ir.Value:
        """That of the last real token in a prompt, which may be padded; the end of the call in later calls."""
        g = self._g
        end = g.node("Sub", [self._width, g.ints(1, name="one")], "last_token.end")
        return g.node("Min", [self._last64, end], "last_token.place")

    @cached_property
    def _width(self) -> ir.Value:
        """The number of tokens of a call, padding included, int64 [1]."""
        return self._g.node("Shape", [self._ids], "last_token.width", attributes={"start": 1, "end": 2})

    @cached_property
    def is_step(self) -> ir.Value:
        """A row's last position is that of its column in a prompt."""
        g = self._g
        one, axes = g.ints(1, name="one"), g.ints(1, 2, name="axes_1_2")
        is_single = g.node("Equal", [self._width, one], "input_ids.is_single")
        follows = g.node("Greater", [self._last64, self.last_columns], "input_ids.follows")
        return g.node("Unsqueeze", [g.node("And", [is_single, follows], "input_ids.is_step"), axes], "is_step")

    @cached_property
    def _call_positions(self) -> tuple[ir.Value, ir.Value]:
        """Positions of this call's tokens, and each row's last, int64 [batch_size, 1]."""
        g = self._g
        zero, one = g.ints(0, name="zero"), g.ints(1, name="one")
        first, step = g.integer(0, "first"), g.integer(1, "step")
        last = self._last64
        length = g.node("Shape", [self._ids], "positions.length", attributes={"start": 1, "end": 2})
        before = g.node("Sub", [op.add(g, last, one, "positions.count"), length], "positions.before")
        start = g.node("Max", [before, zero], "positions.start")
        offsets = g.node("Range", [first, g.node("Squeeze", [length], "positions.end"), step], "positions.own")
        rows = [
            g.node("Unsqueeze", [part, one], f"positions.{label}") for part, label in ((start, "first"), (last, "row"))
        ]
        return op.add(g, rows[0], offsets, "positions"), rows[1]

    def poisoned(self, x: ir.Value, name: str) -> ir.Value:
        """`x`: guards fail before anything is computed."""
        return x

    def _rows(self, rope: RopeSpec) -> ir.Value:
        positions, last = self._call_positions
        return self._tables.rows(rope, positions, lambda: last)

    def _counted(self, mask: ir.Value) -> ir.Value:
        """Each row's last position, int64 [batch_size].

        GroupQueryAttention uses only the number of real tokens in each row, so a row padded on the left would be
        computed wrongly without an error. A guard prevents this: the 1 that is subtracted from the count is reshaped
        to [2 - min(mask[:, 0])], which fails in every runtime unless that is [1]. (An out-of-range Gather would not
        do: on a GPU it returns 0.)
        """
        g = self._g
        one, two = g.ints(1, name="one"), g.ints(2, name="two")
        zero = g.integer(0, "first")
        first = g.node("Gather", [mask, zero], "mask.first", attributes={"axis": 1})
        lowest = g.node("ReduceMin", [first], "mask.first_lowest", attributes={"keepdims": 1})
        width = g.node("Sub", [two, lowest], "mask.guard_width")
        guarded = g.node("Reshape", [one, width], LEFT_PADDING_GUARD, attributes={"allowzero": 1})
        count = g.node("ReduceSum", [mask, one], "mask.count", attributes={"keepdims": 0})
        return g.node("Sub", [count, guarded], "mask.last")


def _attributes(attention: Attention) -> dict[str, Any]:
    """Those of GroupQueryAttention."""
    attributes: dict[str, Any] = {
        "num_heads": attention.num_attention_heads,
        "kv_num_heads": attention.num_key_value_heads,
        "do_rotary": int(attention.rope is not None),
        "rotary_interleaved": int(attention.rope is not None and attention.rope.interleaved),
        "scale": attention.scale,
    }
    if attention.sliding_window is not None:
        attributes["local_window_size"] = attention.sliding_window
    if attention.softcap is not None:
        attributes["softcap"] = attention.softcap
    return attributes
