"""The attention of each layer: projections, norms of heads, rotation, query scaling, and the dialect's attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.graph import Dims
from converters.onnx.graph.kind import KindWriter
from seap_export.model.families import Attention, QueryScaling, names
from seap_export.model.families.sublayers import V_NORM


@dataclass(eq=False)
class AttentionWriter(KindWriter):
    """Emits the attention of all layers."""

    _factors: ir.Value | None = field(default=None, init=False)
    _caches: dict[int, op.KeyValues] = field(default_factory=dict, init=False)

    def open(self, index: int) -> None:
        """Declares a layer's cache, if it has one of its own: keys and values of earlier tokens."""
        if not self._spec.layers[index][Attention].states:
            return
        # Static head counts, because ONNX Runtime GenAI derives each layer's cache size from them.
        dims = self._cache_dims(index, "past_sequence_length")
        inputs = (f"past_key_values.{index}.{part}" for part in ("key", "value"))
        self._caches[index] = op.KeyValues(*(self._g.input(name, self._dtype, dims) for name in inputs))

    def close(self, index: int) -> None:
        if not self._spec.layers[index][Attention].states:
            return
        dims, present = self._cache_dims(index, "total_sequence_length"), self._caches[index]
        self._g.output(present.key, f"present.{index}.key", self._dtype, dims)
        self._g.output(present.value, f"present.{index}.value", self._dtype, dims)

    def _cache_dims(self, index: int, length: str) -> Dims:
        attention = self._spec.layers[index][Attention]
        return ["batch_size", attention.num_key_value_heads, length, attention.head_dim]

    def product(self, index: int, x: ir.Value) -> ir.Value:
        return self._linears.output(self._spec.layers[index][Attention], index, self._attended(index, x))

    def _attended(self, index: int, x: ir.Value) -> ir.Value:
        attention, name = self._spec.layers[index][Attention], f"layers.{index}.{Attention.label}"
        if attention.cache_of is not None:
            return self._attended_to(index, attention.cache_of, x, name)
        # Even if the product is split afterwards, one is at least as fast as three; for gate and up it is not.
        qkv: Sequence[ir.Value] = [self._linears.joined(attention, index, x, f"{name}.qkv_proj")]
        is_changed = attention.qk_norm or attention.has_value_norm or attention.values_are_keys
        if is_changed or attention.query_scaling or attention.gate or self._rotates_apart(attention):
            parts = op.split(
                self._g, qkv[0], list(attention.widths().values()), f"{name}.qkv_proj.split", attention.readers
            )
            qkv, attention = self._prepared(index, parts, name)
        qkv, gates = (qkv[:3], qkv[3:])
        has_sinks = attention.has_sinks
        sinks = self._g.initializer(self._weights.stored(names.tensor("sinks", index))) if has_sinks else None
        attended = self._dialect.attention(qkv, self._caches[index], attention, f"{name}.attention", sinks)
        self._caches[index], output = attended.present, attended.output
        for gate in gates:
            output = self._gated(attention, gate, output, f"{name}.gated")
        return output

    def _gated(self, attention: Attention, gate: ir.Value, x: ir.Value, name: str) -> ir.Value:
        """Multiplies each channel of the heads by the sigmoid of its gate, or of the gate of its head."""
        if attention.gate == "channels":
            return self._dialect.gated("sigmoid", gate, x, attention.channels, name)
        heads = op.split_heads(self._g, x, (0, 0, -1, attention.head_dim), f"{name}.split")
        opened = self._g.node("Sigmoid", [gate], f"{name}.sigmoid")
        each = self._g.node("Unsqueeze", [opened, self._g.ints(-1)], f"{name}.heads")
        return op.split_heads(self._g, op.multiply(self._g, heads, each, f"{name}.product"), (0, 0, -1), name)

    def _attended_to(self, index: int, lender: int, x: ir.Value, name: str) -> ir.Value:
        """The output of attention to keys and values of another layer."""
        attention = self._spec.layers[index][Attention]
        query = self._linears.joined(attention, index, x, f"{name}.qkv_proj")
        if attention.qk_norm is not None:
            query = self._head_norm("q_norm", index, query, name)
        query = self._dialect.rotated(query, attention, attention.num_attention_heads, f"{name}.query")
        return self._dialect.attention_to(query, self._caches[lender], attention, f"{name}.attention")

    def _rotates_apart(self, attention: Attention) -> bool:
        """Whether nodes before the dialect's attention rotate."""
        if attention.rope is None:
            return False
        is_normed_later = attention.qk_norm == "after_rotation"
        return is_normed_later or not self._dialect.attention_rotates(attention.rope, attention.head_dim)

    def _prepared(self, index: int, qkv: Sequence[ir.Value], name: str) -> tuple[Sequence[ir.Value], Attention]:
        """Queries, keys and values for the dialect's attention, and the description that it needs."""
        attention = self._spec.layers[index][Attention]
        query, key, *others = qkv
        value, *gates = (key, *others) if attention.values_are_keys else others
        if attention.has_value_norm:
            value = self._head_norm(V_NORM, index, value, name)
        if attention.qk_norm in ("before_rotation", "over_all_heads"):
            query, key = self._head_norm("q_norm", index, query, name), self._head_norm("k_norm", index, key, name)
        if attention.rope is not None and self._rotates_apart(attention):
            query = self._dialect.rotated(query, attention, attention.num_attention_heads, f"{name}.query")
            key = self._dialect.rotated(key, attention, attention.num_key_value_heads, f"{name}.key")
            attention = replace(attention, rope=None)
        if attention.qk_norm == "after_rotation":
            query, key = self._head_norm("q_norm", index, query, name), self._head_norm("k_norm", index, key, name)
        if attention.query_scaling is not None:  # a rotation that follows leaves lengths alone
            query = op.multiply(self._g, query, self._query_factors(attention.query_scaling), f"{name}.query.scaled")
        return (query, key, value, *gates), attention

    def _head_norm(self, norm: str, index: int, x: ir.Value, name: str) -> ir.Value:
        g, attention = self._g, self._spec.layers[index][Attention]
        gamma = g.initializer(self._weights.stored(names.tensor(norm, index)))
        if attention.qk_norm == "over_all_heads" and norm != V_NORM:
            return self._dialect.head_norm(x, gamma, self._spec.norm.epsilon, f"{name}.{norm}")
        heads = op.split_heads(g, x, (0, 0, -1, attention.head_dim), f"{name}.{norm}.split")
        normed = self._dialect.head_norm(heads, gamma, self._spec.norm.epsilon, f"{name}.{norm}")
        return op.split_heads(g, normed, (0, 0, -1), f"{name}.{norm}.join")

    def _query_factors(self, scaling: QueryScaling) -> ir.Value:
        """The factor of each token's queries, [batch_size, sequence_length, 1]."""
        g = self._g
        if self._factors is None:

            def number(label: str, value: float) -> ir.Value:
                return g.constant(f"query_scaling.{label}", np.array(value, np.float32))

            context = g.integer(scaling.context, "query_scaling.context")
            blocks = g.node("Div", [self._dialect.tokens.positions, context], "query_scaling.blocks")  # rounds down
            blocks = op.cast(g, blocks, ir.DataType.FLOAT, "query_scaling.float32")
            log = g.node("Log", [op.add(g, blocks, number("one", 1.0), "query_scaling.number")], "query_scaling.log")
            scaled = op.multiply(g, log, number("beta", scaling.beta), "query_scaling.scaled")
            factors = op.add(g, scaled, number("one", 1.0), "query_scaling.factors")
            narrow = op.cast(g, factors, self._weights.precision.onnx_dtype, "query_scaling.narrow")
            axis = g.ints(2, name="last_axis")
            self._factors = g.node("Unsqueeze", [narrow, axis], "query_scaling")
        return self._factors
