"""Writes a decoder model as one ONNX graph for prefill and decode, layer by layer from its `ModelSpec`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import onnx_ir as ir

from converters import operators as op
from converters.attention import AttentionWriter
from converters.dialects import POISON, open_dialect
from converters.form import FORM_NOTE, OnnxForm
from converters.graph import Dims, GraphBuilder
from converters.linear import Linears
from converters.overflow import WideParts
from converters.rotary import RotaryTables
from converters.weights import LazyWeights
from seap_export.families import LayerSpec, ModelSpec, names
from seap_export.families.names import Norm, Projection
from seap_export.layers.halves import Half

__all__ = ["HEAD_DIM_MULTIPLE", "LAST_TOKEN", "decoder_graph"]

#: The node that selects each row's last token, in graphs that return the logits of that token only.
LAST_TOKEN = "last_token"

#: GroupQueryAttention takes only heads whose size is a multiple of this.
HEAD_DIM_MULTIPLE = 8
_NOTHING_WIDE = WideParts()


def decoder_graph(
    spec: ModelSpec, weights: LazyWeights, form: OnnxForm, wide: WideParts = _NOTHING_WIDE
) -> GraphBuilder:
    """Builds the whole graph; it refers to `weights`, in the precision of the form, without reading them.

    Inputs are `input_ids` int64 [batch_size, sequence_length], `attention_mask` int64 [batch_size,
    total_sequence_length] (1 for cached and new tokens, padded on the right), and for each layer i
    `past_key_values.{i}.key` and `.value` [batch_size, KV heads of layer i, past_sequence_length, head_dim] in the
    dtype of the precision. Outputs are `logits` [batch_size, sequence_length, vocab_size], or with "last" only those
    of each row's last real token, [batch_size, 1, vocab_size], and `present.{i}.key` and `.value` with
    total_sequence_length positions. Logits are float32, or float16 where CUDA computes in it.
    """
    return _Decoder(spec, weights, form, wide).graph()


@dataclass(frozen=True)
class _Sublayer:
    """What attention or MLP adds to the residual stream, and a bias that still has to be added to it."""

    output: ir.Value
    bias: ir.Value | None


class _Decoder:
    """Emits the nodes of one model in the order of computation."""

    def __init__(self, spec: ModelSpec, weights: LazyWeights, form: OnnxForm, wide: WideParts) -> None:
        self._spec, self._weights, self._form, self._wide = spec, weights, form, wide
        self._g = GraphBuilder("decoder")
        self._dtype = weights.precision.onnx_dtype
        self._stream_dtype = ir.DataType.FLOAT if wide.stream else self._dtype
        dims = ["batch_size", "sequence_length"], ["batch_size", "total_sequence_length"]
        self._ids = self._g.input("input_ids", ir.DataType.INT64, dims[0])
        mask = self._g.input("attention_mask", ir.DataType.INT64, dims[1])
        tables = RotaryTables(self._g, spec, weights.precision)
        self._dialect = open_dialect(form.dialect, form.provider, self._g, self._ids, mask, tables)
        self._linears = Linears(self._g, weights, self._dialect)
        self._attention = AttentionWriter(self._g, spec, weights, self._linears, self._dialect)

    def graph(self) -> GraphBuilder:
        """Emits embedding, layers, final norm and LM head."""
        g = self._g
        g.note("seap_export.cache", self._dialect.cache)
        g.note(FORM_NOTE, json.dumps(self._form.to_json()))
        pasts = [self._past(index) for index in range(len(self._spec.layers))]
        stream = self._embedded()
        normed = self._read(stream, "input_layernorm", 0, "embed_tokens")
        presents: list[op.KeyValues] = []
        for index, past in enumerate(pasts):
            here = f"layers.{index}"
            attended = self._attention.write(index, normed, past)
            presents.append(attended.present)
            added = self._written("o_proj", index, attended.output, f"{here}.self_attn")
            normed, stream = self._add_and_read(added, stream, "post_attention_layernorm", index, f"{here}.self_attn")
            added = self._written("down_proj", index, self._mlp(index, normed), f"{here}.mlp")
            if index + 1 < len(pasts):
                normed, stream = self._add_and_read(added, stream, "input_layernorm", index + 1, f"{here}.mlp")
            else:
                normed, stream = self._add_and_norm(added, stream, names.tensor("norm"), "norm")
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
        self._g.output(logits, "logits", self._logits_dtype, ["batch_size", length, self._spec.vocab_size])
        for index, present in enumerate(presents):
            kv_heads = self._layer(index).num_key_value_heads
            dims: Dims = ["batch_size", kv_heads, "total_sequence_length", self._spec.head_dim]
            self._g.output(present.key, f"present.{index}.key", self._dtype, dims)
            self._g.output(present.value, f"present.{index}.value", self._dtype, dims)

    def _embedded(self) -> ir.Value:
        embedded = self._linears.embedding(names.tensor("embed_tokens"), self._ids, "embed_tokens")
        stream = self._widened(embedded, "embed_tokens", is_needed=self._wide.stream)
        factor = self._spec.block.embedding_multiplier
        return op.scaled(self._g, stream, factor, self._stream_dtype, "embed_tokens.multiplied")

    def _mlp(self, index: int, x: ir.Value) -> ir.Value:
        """What the MLP passes to down_proj."""
        name, width = f"layers.{index}.mlp", self._layer(index).intermediate_size
        gate = self._projection("gate_proj", index, x, f"{name}.gate_proj")
        up = self._projection("up_proj", index, x, f"{name}.up_proj")
        is_wide = (index, "down_proj") in self._wide.halves
        gate = self._widened(gate, f"{name}.gate_proj", is_needed=is_wide)
        up = self._widened(up, f"{name}.up_proj", is_needed=is_wide)
        return self._dialect.gated(self._spec.block.activation, gate, up, width, f"{name}.gated")

    def _written(self, half: Half, index: int, x: ir.Value, name: str) -> _Sublayer:
        """What o_proj or down_proj makes of its input, in the dtype of the residual stream."""
        g, block, label = self._g, self._spec.block, f"{name}.{half}"
        is_wide = (index, half) in self._wide.halves
        if is_wide and half == "o_proj":
            x = self._widened(x, f"{label}.input", is_needed=True)
        weight = names.weight(half, index)
        product = self._linears.product(x, [weight], label, stored_as=weight, wide=is_wide)
        product = self._widened(product, label, is_needed=self._wide.stream and not is_wide)
        bias = self._bias(half, index, wide=self._wide.stream)
        norm: Norm = "post_self_attn_layernorm" if half == "o_proj" else "post_mlp_layernorm"
        if norm not in block.norms and block.residual_multiplier == 1.0:
            return _Sublayer(product, bias)
        if bias is not None:
            product = op.add(g, product, bias, f"{label}.bias_add")
        if norm in block.norms:
            gamma = self._tensor(names.tensor(norm, index), wide=self._wide.stream)
            product = op.rms_norm(g, product, gamma, self._spec.rms_norm_eps, f"layers.{index}.{norm}")
        factor = block.residual_multiplier
        return _Sublayer(op.scaled(g, product, factor, self._stream_dtype, f"{name}.multiplied"), None)

    def _widened(self, x: ir.Value, name: str, *, is_needed: bool) -> ir.Value:
        return op.cast(self._g, x, ir.DataType.FLOAT, f"{name}.float32") if is_needed else x

    def _narrowed(self, x: ir.Value, name: str) -> ir.Value:
        """What products read, in their dtype."""
        return op.cast(self._g, x, self._dtype, f"{name}.narrow") if self._wide.stream else x

    def _read(self, stream: ir.Value, norm: Norm, index: int, name: str) -> ir.Value:
        """What a half reads of the stream: its norm if there is one, or the stream as it is."""
        if norm in self._spec.block.norms:
            name = f"layers.{index}.{norm}"
            gamma = self._tensor(names.tensor(norm, index), wide=self._wide.stream)
            stream = op.rms_norm(self._g, stream, gamma, self._spec.rms_norm_eps, name)
        return self._narrowed(stream, name)

    def _add_and_read(
        self, added: _Sublayer, stream: ir.Value, norm: Norm, index: int, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """What the next half reads, and the new stream; the sum and its norm are one node where there is one."""
        if norm in self._spec.block.norms:
            return self._add_and_norm(added, stream, names.tensor(norm, index), f"layers.{index}.{norm}")
        output = added.output
        if added.bias is not None:
            output = op.add(self._g, output, added.bias, f"{name}.bias_add")
        stream = op.add(self._g, stream, output, f"{name}.residual")
        return self._narrowed(stream, f"{name}.residual"), stream

    def _add_and_norm(self, added: _Sublayer, stream: ir.Value, gamma: str, name: str) -> tuple[ir.Value, ir.Value]:
        gain = self._tensor(gamma, wide=self._wide.stream)
        epsilon = self._spec.rms_norm_eps
        normed, stream = self._dialect.add_and_norm(added.output, stream, gain, epsilon, name, added.bias)
        return self._narrowed(normed, name), stream

    def _lm_head(self, x: ir.Value) -> ir.Value:
        g, block = self._g, self._spec.block
        if self._form.logits == "last":
            x = op.rows_at(g, x, self._dialect.last_places(), LAST_TOKEN)
        x = self._dialect.poisoned(x, POISON)
        x = op.scaled(g, x, block.logits_multiplier, self._dtype, "norm.multiplied")
        is_tied = self._spec.tie_word_embeddings
        table = names.tensor("embed_tokens" if is_tied else "lm_head")
        logits = self._linears.head(x, table, is_tied=is_tied, name="lm_head")
        if self._dtype != self._logits_dtype:
            logits = op.cast(g, logits, self._logits_dtype, "lm_head.float32")
        return logits if block.logits_softcap is None else op.capped(g, logits, block.logits_softcap, "lm_head.capped")

    @property
    def _logits_dtype(self) -> ir.DataType:
        """float16 where a GPU computes in it, as a cast gains nothing; numpy has no bfloat16."""
        is_narrow = self._form.provider == "cuda" and self._spec.block.logits_softcap is None
        return self._dtype if is_narrow and self._dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT

    def _projection(self, projection: Projection, index: int, x: ir.Value, name: str) -> ir.Value:
        weight = names.weight(projection, index)
        return self._linears.product(x, [weight], name, stored_as=weight, bias=self._bias(projection, index))

    def _layer(self, index: int) -> LayerSpec:
        return self._spec.layers[index]

    def _tensor(self, name: str, *, wide: bool = False) -> ir.Value:
        return self._g.initializer(self._weights.stored(name, wide=wide))

    def _bias(self, projection: Projection, index: int, *, wide: bool = False) -> ir.Value | None:
        if projection not in self._layer(index).biases:
            return None
        return self._tensor(names.bias(projection, index), wide=wide)
