"""The attention of each layer: projections, norms of heads, rotation, query scaling, and the dialect's attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects import Dialect
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.linear import Linears
from converters.onnx.weights.weights import LazyWeights
from seap_export.families import LayerSpec, ModelSpec, QueryScaling, names
from seap_export.families.names import QKV

__all__ = ["AttentionWriter"]


class AttentionWriter:
    """Emits the attention of the layers of one model."""

    def __init__(
        self, g: GraphBuilder, spec: ModelSpec, weights: LazyWeights, linears: Linears, dialect: Dialect
    ) -> None:
        self._g, self._spec, self._weights, self._linears, self._dialect = g, spec, weights, linears, dialect
        self._factors: ir.Value | None = None

    def write(self, index: int, x: ir.Value, past: op.KeyValues) -> op.Attended:
        """What layer `index` passes to o_proj, and its new cache.

        Args:
            index: The layer.
            x: What it reads, [batch_size, sequence_length, hidden_size].
            past: Its cache.
        """
        spec, layer, name = self._spec, self._spec.layers[index], f"layers.{index}.self_attn"
        qkv: Sequence[ir.Value] = [self._packed(index, x, f"{name}.qkv_proj")]
        if spec.block.qk_norm or spec.block.query_scaling or self._rotates_apart(layer):
            sizes = [spec.projection_shape(p, index)[0] for p in QKV]
            parts = op.split(self._g, qkv[0], sizes, f"{name}.qkv_proj.split", QKV)
            qkv, layer = self._prepared(index, parts, name)
        return self._dialect.attention(qkv, past, layer, spec.block, spec.head_dim, f"{name}.attention")

    def _rotates_apart(self, layer: LayerSpec) -> bool:
        """Whether nodes before the dialect's attention rotate."""
        if layer.rope is None:
            return False
        is_normed_later = self._spec.block.qk_norm == "after_rotation"
        return is_normed_later or not self._dialect.attention_rotates(layer.rope, self._spec.head_dim)

    def _prepared(self, index: int, qkv: Sequence[ir.Value], name: str) -> tuple[Sequence[ir.Value], LayerSpec]:
        """Queries, keys and values for the dialect's attention, and what it has to know of the layer."""
        block, layer = self._spec.block, self._spec.layers[index]
        query, key, value = qkv
        if block.qk_norm == "before_rotation":
            query, key = self._head_norm("q_norm", index, query, name), self._head_norm("k_norm", index, key, name)
        if layer.rope is not None and self._rotates_apart(layer):
            query = self._dialect.rotated(query, layer.rope, layer.num_attention_heads, f"{name}.query")
            key = self._dialect.rotated(key, layer.rope, layer.num_key_value_heads, f"{name}.key")
            layer = replace(layer, rope=None)
        if block.qk_norm == "after_rotation":
            query, key = self._head_norm("q_norm", index, query, name), self._head_norm("k_norm", index, key, name)
        if block.query_scaling is not None:  # a rotation that follows leaves lengths alone
            query = op.multiply(self._g, query, self._query_factors(block.query_scaling), f"{name}.query.scaled")
        return (query, key, value), layer

    def _packed(self, index: int, x: ir.Value, name: str) -> ir.Value:
        """One product [batch_size, sequence_length, (H + 2 G) * head_dim].

        Even if the product is split afterwards, this is at least as fast as three products; for gate and up it is not.
        """
        weights, biases = ([named(p, index) for p in QKV] for named in (names.weight, names.bias))
        weight_name, bias_name = (parts[0].replace("q_proj", "qkv_proj") for parts in (weights, biases))
        bias = None
        if "q_proj" in self._spec.layers[index].biases:
            bias = self._g.initializer(self._weights.joined(biases, bias_name))
        return self._linears.product(x, weights, name, stored_as=weight_name, bias=bias)

    def _head_norm(self, norm: str, index: int, x: ir.Value, name: str) -> ir.Value:
        g, head_dim = self._g, self._spec.head_dim
        gamma = g.initializer(self._weights.stored(names.tensor(norm, index)))
        heads = op.split_heads(g, x, (0, 0, -1, head_dim), f"{name}.{norm}.split")
        normed = self._dialect.head_norm(heads, gamma, self._spec.rms_norm_eps, f"{name}.{norm}")
        return op.split_heads(g, normed, (0, 0, -1), f"{name}.{norm}.join")

    def _query_factors(self, scaling: QueryScaling) -> ir.Value:
        """The factor of each token's queries, [batch_size, sequence_length, 1]."""
        g = self._g
        if self._factors is None:

            def number(label: str, value: float) -> ir.Value:
                return g.constant(f"query_scaling.{label}", np.array(value, np.float32))

            context = g.constant("query_scaling.context", np.array(scaling.context, np.int64))
            blocks = g.node("Div", [self._dialect.positions(), context], "query_scaling.blocks")  # rounds down
            blocks = op.cast(g, blocks, ir.DataType.FLOAT, "query_scaling.float32")
            log = g.node("Log", [op.add(g, blocks, number("one", 1.0), "query_scaling.number")], "query_scaling.log")
            scaled = op.multiply(g, log, number("beta", scaling.beta), "query_scaling.scaled")
            factors = op.add(g, scaled, number("one", 1.0), "query_scaling.factors")
            narrow = op.cast(g, factors, self._weights.precision.onnx_dtype, "query_scaling.narrow")
            axis = g.constant("last_axis", np.array([2], np.int64))
            self._factors = g.node("Unsqueeze", [narrow, axis], "query_scaling")
        return self._factors
