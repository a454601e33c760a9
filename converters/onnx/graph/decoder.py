"""Writes a decoder model as one ONNX graph for prefill and decode, layer by layer from its `ModelSpec`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from converters.onnx.form import FORM_NOTE, OnnxForm
from converters.onnx.graph import operators as op
from converters.onnx.graph.dialects import POISON, DialectType, dialect_of
from converters.onnx.graph.graph import GraphBuilder
from converters.onnx.graph.kind import KindWriter
from converters.onnx.graph.linear import Linears
from converters.onnx.graph.rotary import RotaryTables
from converters.onnx.graph.sublayers.attention import AttentionWriter
from converters.onnx.graph.sublayers.convolution import ConvolutionWriter
from converters.onnx.graph.sublayers.delta_net import DeltaNetWriter
from converters.onnx.graph.sublayers.experts import ExpertsWriter
from converters.onnx.graph.sublayers.layer_input import LayerInputWriter
from converters.onnx.graph.sublayers.mamba import MambaWriter
from converters.onnx.graph.sublayers.mlp import MlpWriter, SharedWriter
from converters.onnx.weights.scaling import SCALING_NOTE, Scaling, scaled_epsilon
from converters.onnx.weights.weights import LazyWeights
from seap_export.common.providers import PROVIDERS
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    Mamba,
    Mlp,
    ModelSpec,
    SharedExpert,
    Sublayer,
    names,
)

#: The node that selects each row's last token, in graphs that return the logits of that token only.
LAST_TOKEN = "last_token"

#: GroupQueryAttention takes only heads whose size is a multiple of this.
HEAD_DIM_MULTIPLE = 8
_UNSCALED = Scaling()


def decoder_graph(
    spec: ModelSpec,
    weights: LazyWeights,
    form: OnnxForm,
    scaling: Scaling = _UNSCALED,
    dialect: DialectType | None = None,
) -> GraphBuilder:
    """Builds the whole graph; it refers to `weights`, in the precision of the form, without reading them.

    The operators are those of `dialect`, unless it is None: those of the form's.

    Inputs are `input_ids` int64 [batch_size, sequence_length], `attention_mask` int64 [batch_size,
    total_sequence_length] (1 for cached and new tokens, padded on the right), and the states in the dtype of the
    precision: for each layer i with attention `past_key_values.{i}.key` and `.value` [batch_size, KV heads of layer i,
    past_sequence_length, head_dim], with a convolution `past.{i}.conv` [batch_size, channels, kernel size - 1], with a
    recurrence also `past.{i}.recurrent` [batch_size, heads, channels of a key, channels of a value], in float32 but on
    CUDA.
    Outputs are `logits` [batch_size, sequence_length, vocab_size], or with "last" only those of each row's last real
    token, [batch_size, 1, vocab_size], `present.{i}.key` and `.value` with total_sequence_length positions, and
    the other states as `present.{i}.conv` and so on. Logits are float32, or float16 where a GPU computes in it.
    """
    return _Decoder(spec, weights, form, scaling, dialect).graph()


@dataclass(frozen=True)
class _Written:
    """The update of the residual stream by a sublayer, and a bias that still has to be added to it."""

    output: ir.Value
    bias: ir.Value | None


class _Decoder:
    """Emits the nodes of one model in the order of computation."""

    def __init__(
        self,
        spec: ModelSpec,
        weights: LazyWeights,
        form: OnnxForm,
        scaling: Scaling,
        dialect: DialectType | None,
    ) -> None:
        weights = weights.scaled(scaling.tensors(spec))
        self._spec, self._weights, self._form, self._scaling = spec, weights, form, scaling
        self._g = GraphBuilder("decoder")
        self._dtype = weights.precision.onnx_dtype
        dims = ["batch_size", "sequence_length"], ["batch_size", "total_sequence_length"]
        self._ids = self._g.input("input_ids", ir.DataType.INT64, dims[0])
        mask = self._g.input("attention_mask", ir.DataType.INT64, dims[1])
        self._tables = RotaryTables(self._g, spec, weights.precision)
        dialect = dialect or dialect_of(form.dialect, form.provider)
        self._dialect = dialect(self._g, self._ids, mask, self._tables)
        self._linears = Linears(self._g, weights, self._dialect, PROVIDERS[form.provider].accuracy_level)
        parts = (self._g, spec, weights, self._linears, self._dialect)
        self._inputs, self._experts = LayerInputWriter(*parts), ExpertsWriter(*parts)
        self._kinds: Mapping[type[Sublayer], KindWriter] = {
            LayerInput: self._inputs,
            Attention: AttentionWriter(*parts),
            Convolution: ConvolutionWriter(*parts),
            DeltaNet: DeltaNetWriter(*parts),
            Mamba: MambaWriter(*parts),
            Mlp: MlpWriter(*parts),
            Experts: self._experts,
            SharedExpert: SharedWriter(*parts),
        }

    def _split_up_to(self) -> int | None:
        """The length of the longest row whose tokens may be split into calls; None: any.

        Rounded experts are unpacked in every call, which costs more than attention gains. Of longrope, all tokens of a
        row rotate by the table that its length decides on.
        """
        if any(self._spec.all(Experts)):
            return 0
        return min(filter(None, map(self._tables.switch, self._spec.ropes)), default=None)

    def graph(self) -> GraphBuilder:
        """Emits embedding, layers, final norm and LM head."""
        g = self._g
        g.note("seap_export.cache", self._dialect.cache)
        g.note(FORM_NOTE, json.dumps(self._form.to_json()))
        if (up_to := self._split_up_to()) is not None:
            g.note("seap_export.split_up_to", str(up_to))
        if self._scaling != _UNSCALED:
            g.note(SCALING_NOTE, self._scaling.note())
        sublayers = [
            (index, sublayer) for index, layer in enumerate(self._spec.layers) for sublayer in layer.sublayers
        ]
        for index, sublayer in sublayers:
            self._kinds[type(sublayer)].open(index)
        stream = self._embedded()
        if self._spec.layer_inputs:
            self._inputs.embed(self._ids, stream, self._scaling)
        normed = self._read(stream, self._norm_of(sublayers[0]))
        pending: _Written | None = None
        for indexed, following in zip(sublayers, [*sublayers[1:], None], strict=True):
            index, sublayer = indexed
            name = f"layers.{index}.{sublayer.label}"
            for inner in sublayer.inner_norms() if isinstance(sublayer, Experts) else ():
                self._experts.route(self._read(stream, self._norm(inner, index, self._scaling.stream)))
            added = self._written(sublayer, index, self._kinds[type(sublayer)].product(index, normed), name)
            if pending is not None:
                added = self._joined(pending, added, name)
            if sublayer.norm_of_sum is not None:
                added = self._normed(added, self._norm(sublayer.norm_of_sum, index, self._scaling.stream), name)
            if following is not None and following[1].beside:
                pending = added
                if following[1].norm_before != sublayer.norm_before:
                    normed = self._read(stream, self._norm_of(following))
                continue
            norm = self._norm_of(following)
            if sublayer.scales_stream:
                _, total = self._add_and_read(added, stream, None, name)
                scale = self._tensor(names.tensor(names.STREAM_SCALE, index))
                stream = op.multiply(g, total, scale, f"layers.{index}.stream_scaled")
                normed = self._read(stream, norm)
            else:
                normed, stream = self._add_and_read(added, stream, norm, name)
            pending = None
        self._outputs(self._lm_head(normed), sublayers)
        return g

    def _norm_of(self, indexed: tuple[int, Sublayer] | None) -> op.Norm | None:
        """The norm before a sublayer, if it has one; the last norm after all."""
        if indexed is None:
            return self._norm("norm", None, self._scaling.stream)
        index, norm = indexed[0], indexed[1].norm_before
        return None if norm is None else self._norm(norm, index, self._scaling.stream)

    def _norm(self, norm: str, index: int | None, exponent: int) -> op.Norm:
        """A norm of a value that is 2^exponent times as large in the model as in the graph."""
        spec, name = self._spec, norm if index is None else f"layers.{index}.{norm}"
        gain, bias, *_ = *(self._tensor(names.tensor(part, index)) for part in spec.norm_parts(norm)), None
        return op.Norm(name, gain, bias, scaled_epsilon(spec.norm.epsilon, exponent), spec.norm.is_centred)

    def _outputs(self, logits: ir.Value, sublayers: Sequence[tuple[int, Sublayer]]) -> None:
        length: int | str = 1 if self._form.logits == "last" else "sequence_length"
        self._g.output(logits, "logits", self._logits_dtype, ["batch_size", length, self._spec.vocab_size])
        for index, sublayer in sublayers:
            self._kinds[type(sublayer)].close(index)

    def _embedded(self) -> ir.Value:
        embedded = self._linears.embedding(names.tensor("embed_tokens"), self._ids, "embed_tokens")
        factor = self._spec.block.embedding_multiplier
        if not self._scaling.scales_table(self._spec):
            factor = math.ldexp(factor, -self._scaling.stream)
        embedded = op.scaled(self._g, embedded, factor, self._dtype, "embed_tokens.multiplied")
        if self._spec.position_offset is None:
            return embedded
        rows = self._dialect.position_rows(self._spec.position_offset)
        positions = op.embedding(self._g, self._tensor(names.tensor("positions")), rows, "positions.embedded")
        return op.add(self._g, embedded, positions, "embed_tokens.at_positions")

    def _written(self, sublayer: Sublayer, index: int, product: ir.Value, name: str) -> _Written:
        """The update of the stream, given the product of a sublayer's output projection."""
        g, factor, label = self._g, sublayer.multiplier, f"{name}.{sublayer.output}"
        norm = sublayer.norm_after
        bias = self._linears.bias(sublayer, sublayer.output, index)
        if norm is None and factor == 1.0:
            return _Written(product, bias)
        if bias is not None:
            product = op.add(g, product, bias, f"{label}.bias_add")
        if norm is not None:
            exponent = self._scaling.output(self._spec, sublayer.output, index)
            product = op.normed(g, product, self._norm(norm, index, exponent))
        return _Written(op.scaled(g, product, factor, self._dtype, f"{name}.multiplied"), None)

    def _joined(self, first: _Written, second: _Written, name: str) -> _Written:
        """The sum of the updates of two sublayers that stand side by side."""
        output = op.add(self._g, first.output, second.output, f"{name}.beside")
        if first.bias is not None and second.bias is not None:
            output = op.add(self._g, output, first.bias, f"{name}.beside.bias_add")
        return _Written(output, first.bias if second.bias is None else second.bias)

    def _normed(self, added: _Written, norm: op.Norm, name: str) -> _Written:
        """Emits the norm of a sublayer's output, with its bias added."""
        output = added.output
        if added.bias is not None:
            output = op.add(self._g, output, added.bias, f"{name}.sum.bias_add")
        return _Written(op.normed(self._g, output, norm), None)

    def _read(self, stream: ir.Value, norm: op.Norm | None) -> ir.Value:
        """The input of a sublayer: the norm of the stream, or the stream as it is."""
        return stream if norm is None else op.normed(self._g, stream, norm)

    def _add_and_read(
        self, added: _Written, stream: ir.Value, norm: op.Norm | None, name: str
    ) -> tuple[ir.Value, ir.Value]:
        """The input of the next sublayer, and the new stream; a norm and its sum are one node."""
        if norm is not None:
            return self._dialect.add_and_norm(added.output, stream, norm, added.bias)
        output = added.output
        if added.bias is not None:
            output = op.add(self._g, output, added.bias, f"{name}.bias_add")
        stream = op.add(self._g, stream, output, f"{name}.residual")
        return stream, stream

    def _lm_head(self, x: ir.Value) -> ir.Value:
        g, block = self._g, self._spec.block
        if self._form.logits == "last":
            x = op.rows_at(g, x, self._dialect.tokens.last_columns, LAST_TOKEN)
        x = self._dialect.poisoned(x, POISON)
        x = op.scaled(g, x, block.logits_multiplier, self._dtype, "norm.multiplied")
        is_tied = self._spec.tie_word_embeddings
        table = names.tensor("embed_tokens" if is_tied else "lm_head")
        logits = self._linears.head(x, table, is_tied=is_tied, name="lm_head")
        if self._spec.lm_head_bias:
            logits = op.add(g, logits, self._tensor(names.tensor("lm_head_bias")), "lm_head.bias_add")
        if self._dtype != self._logits_dtype:
            logits = op.cast(g, logits, self._logits_dtype, "lm_head.float32")
        return logits if block.logits_softcap is None else op.capped(g, logits, block.logits_softcap, "lm_head.capped")

    @property
    def _logits_dtype(self) -> ir.DataType:
        """float16 where a provider leaves it so; numpy has no bfloat16."""
        is_narrow = PROVIDERS[self._form.provider].narrow_logits and self._spec.block.logits_softcap is None
        return self._dtype if is_narrow and self._dtype == ir.DataType.FLOAT16 else ir.DataType.FLOAT

    def _tensor(self, name: str) -> ir.Value:
        return self._g.initializer(self._weights.stored(name))
