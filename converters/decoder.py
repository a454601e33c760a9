"""Writes a decoder model as one ONNX graph for prefill and decode, layer by layer from its `ModelSpec`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from converters import operators as op
from converters.dialects import open_dialect
from converters.form import FORM_NOTE, OnnxForm
from converters.graph import Dims, GraphBuilder
from converters.linear import Linears
from converters.overflow import WideParts
from converters.rope import rotary_caches
from converters.weights import LazyWeights, lazy_tensor
from seap_export.families import LayerSpec, ModelSpec
from seap_export.families.names import QKV, Projection
from seap_export.layers.halves import Half

__all__ = ["HEAD_DIM_MULTIPLE", "LAST_TOKEN", "decoder_graph"]

#: The node that selects each row's last token, in graphs that return the logits of that token only.
LAST_TOKEN = "last_token"

#: GroupQueryAttention rotates only heads whose size is a multiple of this.
HEAD_DIM_MULTIPLE = 16
_NOTHING_WIDE = WideParts()


def decoder_graph(
    spec: ModelSpec, weights: LazyWeights, form: OnnxForm, wide: WideParts = _NOTHING_WIDE
) -> GraphBuilder:
    """Builds the whole graph; it refers to `weights`, in the precision of the form, without reading them.

    Inputs are `input_ids` int64 [batch_size, sequence_length], `attention_mask` int64 [batch_size,
    total_sequence_length] (1 for cached and new tokens, padded on the right), and for each layer i
    `past_key_values.{i}.key` and `.value` [batch_size, KV heads of layer i, past_sequence_length, head_dim] in the
    dtype of the precision. Outputs are `logits` float32 [batch_size, sequence_length, vocab_size], or with "last" only
    those of each row's last real token, [batch_size, 1, vocab_size], and `present.{i}.key` and `.value` with
    total_sequence_length positions.
    """
    return _Decoder(spec, weights, form, wide).graph()


@dataclass(frozen=True)
class _Sublayer:
    """An attention or MLP output for the residual stream, and a bias that still has to be added to it."""

    output: ir.Value
    bias: ir.Value | None


class _Decoder:
    """Emits the nodes of one model in the order of computation."""

    def __init__(self, spec: ModelSpec, weights: LazyWeights, form: OnnxForm, wide: WideParts) -> None:
        self._spec, self._weights, self._form, self._wide = spec, weights, form, wide
        self._g = GraphBuilder("decoder")
        self._dtype = weights.precision.onnx_dtype
        dims = ["batch_size", "sequence_length"], ["batch_size", "total_sequence_length"]
        self._ids = self._g.input("input_ids", ir.DataType.INT64, dims[0])
        mask = self._g.input("attention_mask", ir.DataType.INT64, dims[1])
        self._dialect = open_dialect(form.dialect, self._g, self._ids, mask, *self._caches())
        self._linears = Linears(self._g, weights, self._dialect)

    def graph(self) -> GraphBuilder:
        """Emits embedding, layers, final norm and LM head."""
        g, family = self._g, self._spec.family
        g.note("seap_export.cache", self._dialect.cache)
        g.note(FORM_NOTE, json.dumps(self._form.to_json()))
        pasts = [self._past(index) for index in range(len(self._spec.layers))]
        embedded = self._linears.embedding(family.tensor("embed_tokens"), self._ids, "embed_tokens")
        stream = self._widened(embedded, "embed_tokens", is_needed=self._wide.stream)
        gamma = self._tensor(family.tensor("input_layernorm", 0), wide=self._wide.stream)
        name = "layers.0.input_layernorm"
        normed = self._narrowed(op.rms_norm(g, stream, gamma, self._spec.rms_norm_eps, name), name)
        presents: list[op.KeyValues] = []
        for index, past in enumerate(pasts):
            attended, present = self._attention(index, normed, past)
            presents.append(present)
            normed, stream = self._add_and_norm(attended, stream, "post_attention_layernorm", index)
            mlp = self._mlp(index, normed)
            after = ("input_layernorm", index + 1) if index + 1 < len(pasts) else ("norm", None)
            normed, stream = self._add_and_norm(mlp, stream, *after)
        self._outputs(self._lm_head(normed), presents)
        return g

    def _past(self, index: int) -> op.KeyValues:
        # Static head counts, because ONNX Runtime GenAI derives each layer's cache size from them.
        kv_heads = self._layer(index).num_key_value_heads
        dims: Dims = ["batch_size", kv_heads, "past_sequence_length", self._spec.head_dim]
        key, value = (self._g.input(f"past_key_values.{index}.{part}", self._dtype, dims) for part in ("key", "value"))
        return op.KeyValues(key, value)

    def _outputs(self, logits: ir.Value, presents: list[op.KeyValues]) -> None:
        length: int | str = 1 if self._form.logits == "last" else "sequence_length"
        self._g.output(logits, "logits", ir.DataType.FLOAT, ["batch_size", length, self._spec.vocab_size])
        for index, present in enumerate(presents):
            kv_heads = self._layer(index).num_key_value_heads
            dims: Dims = ["batch_size", kv_heads, "total_sequence_length", self._spec.head_dim]
            self._g.output(present.key, f"present.{index}.key", self._dtype, dims)
            self._g.output(present.value, f"present.{index}.value", self._dtype, dims)

    def _caches(self) -> tuple[ir.Value, ir.Value]:
        spec = self._spec
        arguments = (spec.rope, spec.head_dim, spec.max_position_embeddings)
        shape = (spec.max_position_embeddings, spec.head_dim // 2)
        narrow = self._weights.precision.torch_dtype
        cos = lazy_tensor("cos_cache", shape, lambda: rotary_caches(*arguments)[0].to(narrow), self._dtype)
        sin = lazy_tensor("sin_cache", shape, lambda: rotary_caches(*arguments)[1].to(narrow), self._dtype)
        return self._g.initializer(cos), self._g.initializer(sin)

    def _attention(self, index: int, x: ir.Value, past: op.KeyValues) -> tuple[_Sublayer, op.KeyValues]:
        name = f"layers.{index}.self_attn"
        qkv, layer = self._qkv(index, x, name), self._layer(index)
        attended = self._dialect.attention(qkv, past, layer, self._spec.head_dim, f"{name}.attention")
        return self._write("o_proj", index, attended.output, f"{name}.o_proj"), attended.present

    def _qkv(self, index: int, x: ir.Value, name: str) -> Sequence[ir.Value]:
        """Queries, keys and values: packed into one value, or as three if heads are normalised."""
        packed = self._packed_qkv(index, x, f"{name}.qkv_proj")
        if not self._spec.family.has_qk_norm:
            return [packed]
        sizes = [self._spec.projection_shape(p, index)[0] for p in QKV]
        query, key, value = op.split(self._g, packed, sizes, f"{name}.qkv_proj.split", QKV)
        return self._head_norm("q_norm", index, query, name), self._head_norm("k_norm", index, key, name), value

    def _packed_qkv(self, index: int, x: ir.Value, name: str) -> ir.Value:
        """One product [batch_size, sequence_length, (H + 2 G) * head_dim].

        Even if the product is split afterwards, this is at least as fast as three products; for gate and up it is not.
        """
        family = self._spec.family
        weights, biases = ([named(p, index) for p in QKV] for named in (family.weight, family.bias))
        weight_name, bias_name = (names[0].replace("q_proj", "qkv_proj") for names in (weights, biases))
        bias = None
        if "q_proj" in self._layer(index).biases:
            bias = self._g.initializer(self._weights.joined(biases, bias_name))
        return self._linears.product(x, weights, name, stored_as=weight_name, bias=bias)

    def _head_norm(self, norm: str, index: int, x: ir.Value, name: str) -> ir.Value:
        g, head_dim = self._g, self._spec.head_dim
        gamma = self._tensor(self._spec.family.tensor(norm, index))
        heads = op.split_heads(g, x, (0, 0, -1, head_dim), f"{name}.{norm}.split")
        normed = op.rms_norm(g, heads, gamma, self._spec.rms_norm_eps, f"{name}.{norm}")
        return op.split_heads(g, normed, (0, 0, -1), f"{name}.{norm}.join")

    def _mlp(self, index: int, x: ir.Value) -> _Sublayer:
        g, name = self._g, f"layers.{index}.mlp"
        gate = self._dialect.silu(self._projection("gate_proj", index, x, f"{name}.gate_proj"), f"{name}.silu")
        up = self._projection("up_proj", index, x, f"{name}.up_proj")
        is_wide = (index, "down_proj") in self._wide.halves
        gate, up = (
            self._widened(part, label, is_needed=is_wide)
            for part, label in ((gate, f"{name}.silu"), (up, f"{name}.up_proj"))
        )
        return self._write("down_proj", index, op.multiply(g, gate, up, f"{name}.gated"), f"{name}.down_proj")

    def _write(self, half: Half, index: int, x: ir.Value, name: str) -> _Sublayer:
        """The output of o_proj or down_proj, in the dtype of the residual stream."""
        is_wide = (index, half) in self._wide.halves
        if is_wide and half == "o_proj":
            x = self._widened(x, f"{name}.input", is_needed=True)
        weight = self._spec.family.weight(half, index)
        product = self._linears.product(x, [weight], name, stored_as=weight, wide=is_wide)
        product = self._widened(product, name, is_needed=self._wide.stream and not is_wide)
        return _Sublayer(product, self._bias(half, index, wide=self._wide.stream))

    def _widened(self, x: ir.Value, name: str, *, is_needed: bool) -> ir.Value:
        return op.cast(self._g, x, ir.DataType.FLOAT, f"{name}.float32") if is_needed else x

    def _narrowed(self, x: ir.Value, name: str) -> ir.Value:
        """The output of a norm, in the dtype of the products that read it."""
        return op.cast(self._g, x, self._dtype, f"{name}.narrow") if self._wide.stream else x

    def _add_and_norm(
        self, added: _Sublayer, stream: ir.Value, norm: str, index: int | None
    ) -> tuple[ir.Value, ir.Value]:
        gamma = self._tensor(self._spec.family.tensor(norm, index), wide=self._wide.stream)
        name = norm if index is None else f"layers.{index}.{norm}"
        epsilon = self._spec.rms_norm_eps
        normed, stream = self._dialect.add_and_norm(added.output, stream, gamma, epsilon, name, added.bias)
        return self._narrowed(normed, name), stream

    def _lm_head(self, x: ir.Value) -> ir.Value:
        if self._form.logits == "last":
            x = op.rows_at(self._g, x, self._dialect.last_places(), LAST_TOKEN)
        is_tied = self._spec.tie_word_embeddings
        table = self._spec.family.tensor("embed_tokens" if is_tied else "lm_head")
        logits = self._linears.head(x, table, is_tied=is_tied, name="lm_head")
        is_float32 = self._dtype == ir.DataType.FLOAT
        return logits if is_float32 else op.cast(self._g, logits, ir.DataType.FLOAT, "lm_head.float32")

    def _projection(self, projection: Projection, index: int, x: ir.Value, name: str) -> ir.Value:
        weight = self._spec.family.weight(projection, index)
        return self._linears.product(x, [weight], name, stored_as=weight, bias=self._bias(projection, index))

    def _layer(self, index: int) -> LayerSpec:
        return self._spec.layers[index]

    def _tensor(self, name: str, *, wide: bool = False) -> ir.Value:
        return self._g.initializer(self._weights.stored(name, wide=wide))

    def _bias(self, projection: Projection, index: int, *, wide: bool = False) -> ir.Value | None:
        if projection not in self._layer(index).biases:
            return None
        return self._tensor(self._spec.family.bias(projection, index), wide=wide)
