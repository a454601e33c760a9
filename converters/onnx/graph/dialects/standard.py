"""Only operators of the ONNX standard, opset 23, for every runtime that implements it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects.convolved import ConvolutionStates, swapped
from converters.onnx.graph.dialects.elementary import elementary_attention
from converters.onnx.graph.dialects.mixtures import ExpertWeights, Routed, standard_experts
from converters.onnx.graph.dialects.recurrent import scanned
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.rotary import RotaryTables
from seap_export.families import Attention, Experts, RopeSpec
from seap_export.families.sublayers import Activation

__all__ = ["StandardDialect"]


class StandardDialect:
    """Attention-23, RotaryEmbedding-23, RMSNormalization-23; see `converters.onnx.graph.dialects.Dialect`.

    Keys are masked individually, so padding may be anywhere. A decode step appends its token after all earlier
    positions, padding included, with a 1 at the end of each row of the mask.
    """

    cache = "appended"
    state_dtype = ir.DataType.FLOAT

    def __init__(self, g: GraphBuilder, ids: ir.Value, mask: ir.Value, tables: RotaryTables) -> None:
        self._g, self._mask, self._tables = g, mask, tables
        self._total = self._length(mask, "mask.total")
        self._past = g.node("Sub", [self._total, self._length(ids, "input_ids.length")], "past_length")
        self._all_positions = self._positions()
        self._position_ids = self._new_columns(self._all_positions, "position_ids")
        self._visible = self._causal()
        self._windows: dict[int, ir.Value] = {}
        self._states = ConvolutionStates(g, lambda: self._ends)

    def gated(self, kind: Activation, gate: ir.Value, up: ir.Value, width: int, name: str) -> ir.Value:
        """One node more than the activation."""
        return op.multiply(self._g, self.activated(kind, gate, name.replace("gated", kind)), up, name)

    def activated(self, kind: Activation, x: ir.Value, name: str) -> ir.Value:
        """SiLU is two nodes, because Swish needs opset 24."""
        if kind == "silu":
            return op.multiply(self._g, x, self._g.node("Sigmoid", [x], f"{name}.sigmoid"), name)
        return op.activation(self._g, kind, x, name)

    def experts(self, experts: Experts, x: ir.Value, routed: Routed, weights: ExpertWeights, name: str) -> ir.Value:
        """The standard has no operator that leaves experts out."""

        def activated(gate: ir.Value, label: str) -> ir.Value:
            return self.activated(experts.activation, gate, label)

        return standard_experts(self._g, experts, x, routed, weights, activated, name)

    def poisoned(self, x: ir.Value, name: str) -> ir.Value:
        """`x`: padding may be anywhere."""
        return x

    def tied_head(self, x: ir.Value, table: ir.Value, name: str) -> ir.Value:
        """Gemm, which reads a matrix transposed without a copy but accepts only two dimensions."""
        g = self._g
        vocab_size, hidden_size = (int(size) for size in table.shape.numpy())  # type: ignore[union-attr]
        rows = g.node("Reshape", [x, g.ints(-1, hidden_size, name="rows_shape")], f"{name}.rows")
        logits = g.node("Gemm", [rows, table], f"{name}.gemm", attributes={"transB": 1})
        outer = g.node("Shape", [x], f"{name}.outer", attributes={"end": 2})
        width = g.ints(vocab_size, name="vocab_size")
        return g.node(
            "Reshape", [logits, g.node("Concat", [outer, width], f"{name}.shape", attributes={"axis": 0})], name
        )

    def add_and_norm(
        self, x: ir.Value, residual: ir.Value, norm: op.Norm, bias: ir.Value | None
    ) -> tuple[ir.Value, ir.Value]:
        """One node per operation."""
        written = x if bias is None else op.add(self._g, x, bias, f"{norm.name}.bias_add")
        stream = op.add(self._g, residual, written, f"{norm.name}.residual")
        return op.normed(self._g, stream, norm), stream

    def head_norm(self, x: ir.Value, gamma: ir.Value, epsilon: float, name: str) -> ir.Value:
        """A single node."""
        return op.rms_norm(self._g, x, gamma, epsilon, name)

    def attention_rotates(self, rope: RopeSpec, head_dim: int) -> bool:
        """Any rotation."""
        return True

    def rotated(self, x: ir.Value, attention: Attention, heads: int, name: str) -> ir.Value:
        """A single node."""
        rope = attention.rope
        assert rope is not None
        rows = self._position_ids
        if self._tables.switch(rope) is not None:
            rows = self._tables.rows(rope, rows, self._row_last)
        inputs = [x, *self._tables.caches(rope), rows]
        attributes = self._tables.attributes(rope, heads, attention.head_dim)
        return self._g.node("RotaryEmbedding", inputs, f"{name}.rotated", attributes=attributes)

    def position_rows(self, offset: int) -> ir.Value:
        """Of the number of real tokens before each."""
        return self._tables.learned_rows(offset, self._position_ids, self._row_last)

    def positions(self) -> ir.Value:
        """The number of real tokens before each."""
        return self._position_ids

    def attention(
        self,
        qkv: Sequence[ir.Value],
        past: op.KeyValues,
        attention: Attention,
        name: str,
        sinks: ir.Value | None = None,
    ) -> op.Attended:
        """Rotates queries and keys before the cache, which holds rotated keys."""
        heads, kv_heads = attention.num_attention_heads, attention.num_key_value_heads
        window = attention.sliding_window
        if len(qkv) == 1:
            qkv = op.split(
                self._g, qkv[0], list(attention.widths().values()), f"{name}.split", ["query", "key", "value"]
            )
        query, key, value = qkv
        if attention.rope is not None:
            query = self.rotated(query, attention, heads, f"{name}.query")
            key = self.rotated(key, attention, kv_heads, f"{name}.key")
        visible = self._visible if window is None else self._within(window)
        if not attention.is_usual_softmax:
            return elementary_attention(self._g, (query, key, value), past, visible, attention, name, sinks)
        output, present_key, present_value = self._g.node_with_outputs(
            "Attention",
            [query, key, value, visible, past.key, past.value],
            name,
            ["output", "present_key", "present_value"],
            attributes={
                "q_num_heads": heads,
                "kv_num_heads": kv_heads,
                "scale": attention.scale,
                "softmax_precision": int(ir.DataType.FLOAT),
            },
        )
        return op.Attended(output, op.KeyValues(present_key, present_value))

    def attention_to(self, query: ir.Value, cache: op.KeyValues, attention: Attention, name: str) -> ir.Value:
        """The operator with four dimensions, which the cache has."""
        g, heads, width = self._g, attention.num_attention_heads, attention.head_dim
        visible = self._visible if attention.sliding_window is None else self._within(attention.sliding_window)
        attributes = {"scale": attention.scale, "softmax_precision": int(ir.DataType.FLOAT)}
        swap = {"perm": (0, 2, 1, 3)}
        query = op.split_heads(g, query, (0, 0, heads, width), f"{name}.query.split")
        query = g.node("Transpose", [query], f"{name}.query.heads", attributes=swap)
        inputs = [query, cache.key, cache.value, visible]
        attended = g.node("Attention", inputs, f"{name}.by_head", attributes=attributes)
        attended = g.node("Transpose", [attended], f"{name}.by_token", attributes=swap)
        return op.split_heads(g, attended, (0, 0, heads * width), name)

    def convolution(self, x: ir.Value, past: ir.Value, kernels: op.Kernels, name: str) -> op.Convolved:
        """Conv over the state and the values, which are 0 at padding: a row that begins with it sees zeros before."""
        g = self._g
        values = swapped(g, op.multiply(g, x, self._real_factor, f"{name}.real"), f"{name}.channels_first")
        joined = self._states.joined(past, values, f"{name}.joined")
        inputs = [joined, kernels.weight, kernels.bias]
        output = g.node("Conv", inputs if kernels.bias else inputs[:2], name, attributes={"group": kernels.channels})
        present = self._states.after(joined, kernels, f"{name}.present")
        output = self.activated("silu", output, f"{name}.silu") if kernels.activates else output
        return op.Convolved(swapped(g, output, f"{name}.channels_last"), present)

    def recurrence(self, parts: op.Recurrence, past: ir.Value, name: str) -> op.Recurred:
        """A scan, token by token."""
        return scanned(self._g, parts, past, self._tables.precision.onnx_dtype, name)

    def decays(
        self, x: ir.Value, bias: ir.Value, factor: ir.Value, rate: ir.Value | None, name: str
    ) -> tuple[ir.Value, ir.Value | None]:
        """One node per operation, in float32."""
        g = self._g
        shifted = op.add(g, op.cast(g, x, ir.DataType.FLOAT, f"{name}.float32"), bias, f"{name}.shifted")
        decay = op.multiply(g, g.node("Softplus", [shifted], f"{name}.softplus"), factor, f"{name}.decay")
        return decay, None if rate is None else g.node("Sigmoid", [rate], f"{name}.rate")

    def gated_norm(
        self, x: ir.Value, gain: ir.Value, gate: ir.Value, width: int, epsilon: float, name: str
    ) -> ir.Value:
        """One node per operation."""
        heads = op.split_heads(self._g, x, (0, 0, -1, width), f"{name}.split")
        normed = op.rms_norm(self._g, heads, gain, epsilon, f"{name}.normed")
        joined = op.split_heads(self._g, normed, (0, 0, -1), f"{name}.join")
        return self.gated("silu", gate, joined, width, f"{name}.gated")

    @cached_property
    def real(self) -> ir.Value:
        """Those with a 1 in the mask."""
        g, axis = self._g, self._g.ints(2, name="last_axis")
        real = op.cast(g, self._new_mask, ir.DataType.BOOL, "input_ids.are_real")
        return g.node("Unsqueeze", [real, axis], "input_ids.which_real")

    @cached_property
    def is_step(self) -> ir.Value:
        """One column behind others."""
        g = self._g
        one, axes, none = g.ints(1, name="one"), g.ints(1, 2, name="axes_1_2"), g.ints(0, name="none")
        length = g.node("Sub", [self._total, self._past], "input_ids.columns")
        is_single = g.node("Equal", [length, one], "input_ids.is_single")
        follows = g.node("Greater", [self._past, none], "input_ids.follows")
        return g.node("Unsqueeze", [g.node("And", [is_single, follows], "input_ids.is_step"), axes], "is_step")

    @cached_property
    def _real_factor(self) -> ir.Value:
        """1 for each real token of this call and 0 for padding, [batch_size, sequence_length, 1]."""
        g = self._g
        narrow = op.cast(g, self._new_mask, self._tables.precision.onnx_dtype, "input_ids.is_real")
        axis = g.ints(2, name="last_axis")
        return g.node("Unsqueeze", [narrow, axis], "input_ids.real")

    @cached_property
    def _new_mask(self) -> ir.Value:
        """The columns of this call, int64 [batch_size, sequence_length]."""
        return self._new_columns(self._mask, "last_token.mask")

    @cached_property
    def _ends(self) -> ir.Value:
        """0 for a row without a token in this call, which keeps its state."""
        g, axis = self._g, self._g.ints(1, name="one")
        counted = op.multiply(
            g, self._new_mask, op.add(g, self._columns, axis, "last_token.numbers"), "last_token.counted"
        )
        return g.node("ReduceMax", [counted, axis], "last_token.columns", attributes={"keepdims": 0})

    @cached_property
    def _columns(self) -> ir.Value:
        """0, 1, ... for the columns of this call, int64 [sequence_length]."""
        g = self._g
        zero, one = g.integer(0, "first"), g.integer(1, "step")
        length = g.node("Sub", [self._total, self._past], "last_token.length")
        return g.node("Range", [zero, self._scalar(length, "last_token.end"), one], "last_token.places")

    @cached_property
    def last_columns(self) -> ir.Value:
        """That of the last 1 in each row's mask."""
        g, mask, columns = self._g, self._new_mask, self._columns
        axis = g.ints(1, name="one")
        return g.node(
            "ReduceMax",
            [op.multiply(g, mask, columns, "last_token.real"), axis],
            "last_token.place",
            attributes={"keepdims": 0},
        )

    def _row_last(self) -> ir.Value:
        """The position of each row's last token, int64 [batch_size, 1]."""
        axis = self._g.ints(1, name="one")
        return self._g.node("ReduceMax", [self._position_ids, axis], "row_last", attributes={"keepdims": 1})

    def _positions(self) -> ir.Value:
        """Number of real tokens before each column of the mask, per row; int64 like the mask."""
        g = self._g
        one = g.ints(1, name="one")
        counted = g.node("CumSum", [self._mask, g.integer(1, "step")], "mask.counted")
        before = g.node("Sub", [counted, one], "mask.before")
        return g.node("Max", [before, g.ints(0, name="none")], "mask.positions")

    def _causal(self) -> ir.Value:
        """The keys that each new token sees: bool [batch_size, 1, sequence_length, total_sequence_length].

        Padding sees itself; otherwise its softmax would be empty and give NaN.
        """
        g = self._g
        zero, one = g.integer(0, "first"), g.integer(1, "step")
        end = self._scalar(self._total, "mask.end")
        keys = g.node("Range", [zero, end, one], "keys")
        flat = g.node("Range", [self._scalar(self._past, "queries.start"), end, one], "queries.flat")
        queries = g.node("Unsqueeze", [flat, g.ints(1, name="one")], "queries")
        axes = g.ints(1, 2, name="axes_1_2")
        real = g.node("Unsqueeze", [op.cast(g, self._mask, ir.DataType.BOOL, "mask.real"), axes], "keys.real")
        before = g.node("LessOrEqual", [keys, queries], "keys.before")
        itself = g.node("Equal", [keys, queries], "keys.itself")
        return g.node("Or", [g.node("And", [real, before], "keys.real_before"), itself], "visible")

    def _within(self, window: int) -> ir.Value:
        """The visible keys less than `window` positions back; layers with the same window share one mask."""
        g = self._g
        if window not in self._windows:
            width = g.ints(window, name=f"window_{window}")
            start = g.node("Sub", [self._position_ids, width], f"queries.window_{window}")
            axes_of_queries, axes_of_keys = g.ints(1, 3, name="axes_1_3"), g.ints(1, 2, name="axes_1_2")
            queries = g.node("Unsqueeze", [start, axes_of_queries], f"queries.start_{window}")
            keys = g.node("Unsqueeze", [self._all_positions, axes_of_keys], f"keys.positions_{window}")
            near = g.node("Greater", [keys, queries], f"keys.window_{window}")
            self._windows[window] = g.node("And", [self._visible, near], f"visible.window_{window}")
        return self._windows[window]

    def _new_columns(self, x: ir.Value, name: str) -> ir.Value:
        """The columns of this call, out of [batch_size, total_sequence_length]."""
        one = self._g.ints(1, name="one")
        return self._g.node("Slice", [x, self._past, self._total, one], name)

    def _length(self, x: ir.Value, name: str) -> ir.Value:
        return self._g.node("Shape", [x], name, attributes={"start": 1, "end": 2})

    def _scalar(self, x: ir.Value, name: str) -> ir.Value:
        return self._g.node("Squeeze", [x], name)
