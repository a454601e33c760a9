"""Compares the walk with transformers' own class before any statistic counts.

A family's description that is wrong in any part shows here: transformers computes the first texts with the source's
own config and tensors, side by side with the walk, a layer at a time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from seap_export.common.json_file import write_json
from seap_export.errors import InputError, in_one_line
from seap_export.model.families import Attention, Experts, LayerSpec, ModelSpec, Sublayer, names
from seap_export.model.layers.batches import Batch, length_buckets
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.head import Head
from seap_export.model.layers.hidden_states import HiddenStates, logits, output_stream
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.stock import StockModel
from seap_export.model.layers.sublayers.experts import routing_margins
from seap_export.model.layers.sublayers.norm import Norm
from seap_export.model.layers.sublayers.operands import stream_of
from seap_export.model.sources.source import Source
from seap_export.model.sources.stored import StoredForm

#: Tokens that are compared; a text is cut there.
_TOKENS = 256
#: Largest difference of a token's hidden states, or logits, relative to their root mean square. Rounding in float32
#: stays near 1e-5 in deep models; another activation, norm, scale, window or rotation is hundreds of times as much.
_LIMIT = 1e-3
#: Where a router prefers one expert to another by less than this, either may be chosen.
_TIE = 1e-4
_CONTEXT = "original_max_position_embeddings"


class WalkCheck:
    """The walk and transformers' model over the same text.

    A router that finds two experts about as good may choose either, which changes the token. Such tokens are left out,
    and behind a mixture of experts both go on with what transformers computed, so that rounding does not add up.

    Both run on the CPU whatever the device is, since it is the description that is compared. They get a vocabulary of
    the text's tokens alone, so that embedding and LM head take no memory. Windows, and the lengths at which a rotation
    changes, are at most half of the text, so that it shows what happens beyond them.
    """

    def __init__(self, source: Source, texts: Sequence[Sequence[int]], embedding: Embedding) -> None:
        self._source, self._form = source, StoredForm(source.spec)
        (batch,) = length_buckets([max(texts, key=len)[:_TOKENS]], _TOKENS)
        self._vocabulary, ids = batch.input_ids.unique(return_inverse=True)
        indexed = embedding.rows(self._vocabulary)
        self._rows = indexed.tokens
        config = {**source.config, "vocab_size": len(self._vocabulary), "pad_token_id": None}
        config, self._spec = short_context(config, source.spec, max(ids.numel() // 2, 1))
        self._walk = HiddenStates.embedded(self._spec, indexed, [Batch(ids, batch.real)])
        self._model = StockModel(_stock_config(config), self._spec)  # other backends than eager leave out soft caps
        self._load_outer("embed_tokens", indexed.tokens)
        if indexed.positions is not None:
            self._load_outer("positions", indexed.positions)
        for name, tensor in zip(names.INPUT_TABLES, indexed.inputs or (), strict=False):
            self._load_outer(name, tensor)
        self._passage = self._model.start([ids], cached=False)
        self._compare("the embedding", self._walked(), self._passage.hidden[0][0])

    def _walked(self) -> torch.Tensor:
        """The residual stream of the walk, float32 [tokens, hidden_size]."""
        return stream_of(self._walk.streams[0], self._spec.hidden_size)

    def _load_outer(self, name: str, tensor: torch.Tensor) -> None:
        for stored in self._form.to_stored({names.tensor(name): tensor}).values():
            self._model.load_outer(name, stored.float())

    def state(self) -> dict[str, torch.Tensor]:
        """The state between two layers, for `restore`."""
        in_tuples = torch.tensor(self._model.in_tuples)
        return {"walk": self._walk.streams[0], "stock": self._passage.hidden[0], "in_tuples": in_tuples}

    def restore(self, state: Mapping[str, torch.Tensor]) -> None:
        """Goes on from a state between two layers."""
        self._walk.streams[0] = state["walk"]
        self._passage.hidden[0], self._model.in_tuples = state["stock"], bool(state["in_tuples"])

    def layer(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Passes one layer and compares its outputs."""
        layer = DecoderLayer(self._spec, index, tensors)
        sublayers = self._spec.layers[index].sublayers
        is_decided = torch.ones(len(self._walk.streams[0]), dtype=torch.bool)
        for sublayer in sublayers:
            if isinstance(sublayer, Experts):
                stream = self._walk.read(layer, sublayer.output, 0)
                is_decided &= routing_margins(layer, sublayer, stream) > _TIE
            self._walk.advance(layer, sublayer.output)
        stored = self._form.to_stored(layer.tensors)  # float64 where a norm lacks its offset
        double = torch.float64
        self._model.load(index, {name: one.float() if one.dtype == double else one for name, one in stored.items()})
        self._model.advance(index, self._passage)
        self._model.release(index)
        walked, stock = self._walked(), self._passage.hidden[0][0]
        if not is_decided.any():
            raise InputError(
                f"{self._source.name}: the router of layer {index} does not tell experts apart for any token, so "
                "nothing can be compared with transformers; download the model again"
            )
        self._compare(f"layer {index}", walked[is_decided], stock[is_decided])
        if any(isinstance(sublayer, Experts) for sublayer in sublayers):
            self._walk.streams[0] = torch.cat((stock, self._walk.streams[0][:, self._spec.hidden_size :]), 1)

    def logits(self, norm: Norm, head: Head) -> None:
        """Compares the logits of the text's tokens. Call it after the last layer."""
        spec, rows = self._source.spec, head.rows(self._vocabulary)
        walked = logits(spec, rows, output_stream(spec, norm, self._walked()))
        self._load_outer("norm", norm.gain)
        if norm.bias is not None:
            self._load_outer("norm_bias", norm.bias)
        self._model.load_outer("lm_head", (self._rows if self._model.is_tied else rows.weight).float())
        if rows.bias is not None:
            self._load_outer("lm_head_bias", rows.bias)
        self._compare("the logits", walked, self._model.logits(self._passage.hidden[0])[0])

    def _compare(self, where: str, walked: torch.Tensor, stock: torch.Tensor) -> None:
        refuse_too_large(self._source.name, where, stock)
        scale = stock.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        difference = ((walked - stock).abs() / scale).max().item()
        if not difference <= _LIMIT:
            raise InputError(
                f"{self._source.name}: from {where} on, the description of the family "
                f"'{self._source.spec.family.model_type}' computes something else than transformers "
                f"({difference:.1e} of the values' size); this model cannot be exported"
            )


def refuse_too_large(model: str, where: str, values: torch.Tensor) -> None:
    """Refuses hidden states or logits whose squares are too large for float32."""
    if not values.square().sum().isfinite():
        raise InputError(
            f"{model}: {where} gives values too large for float32; the model may be damaged: download it again"
        )


def _stock_config(config: Mapping[str, Any]) -> Any:
    """transformers' config, read from a file as that of any model: some values are spelled differently there."""
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "config.json", dict(config))
        try:
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except Exception as error:  # 4.57 lets values through to where they are used
            raise InputError(f"config.json: transformers cannot read it ({in_one_line(error)})") from error


def short_context(config: Mapping[str, Any], spec: ModelSpec, length: int) -> tuple[dict[str, Any], ModelSpec]:
    """Config and description with windows, and lengths at which a rotation or queries change, of at most `length`.

    The lengths in the config become shorter whether the description knows of them or not.
    """
    config = dict(config)
    key = spec.family.key("sliding_window")
    if config.get(key):
        window = config[key] = min(config[key], length)
        spec = _with_attention(spec, lambda one: replace(one, sliding_window=one.sliding_window and window))
    if any(one.query_scaling or (one.rope and one.rope.switches_at) for one in spec.all(Attention)):
        config = _with_context(config, length)
        spec = _with_attention(spec, lambda one: _shorter(one, length))
    return config, spec


def _with_attention(spec: ModelSpec, change: Callable[[Attention], Attention]) -> ModelSpec:
    """The model with other attention in its layers."""

    def changed(sublayer: Sublayer) -> Sublayer:
        return change(sublayer) if isinstance(sublayer, Attention) else sublayer

    return spec.with_layers(tuple(LayerSpec(tuple(map(changed, layer.sublayers))) for layer in spec.layers))


def _with_context(config: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The config with a shorter original length wherever it gives one."""
    shorter = {
        key: _with_context(value, length)
        for key, value in config.items()
        if key in ("rope_scaling", "rope_parameters") and value
    }
    if config.get(_CONTEXT):
        shorter[_CONTEXT] = min(config[_CONTEXT], length)
    return {**config, **shorter}


def _shorter(attention: Attention, length: int) -> Attention:
    rope, scaling = attention.rope, attention.query_scaling
    if rope is not None and rope.parameters.get(_CONTEXT):
        parameters = {**rope.parameters, _CONTEXT: min(rope.parameters[_CONTEXT], length)}
        rope = replace(rope, parameters=MappingProxyType(parameters))
    if scaling is not None:
        scaling = replace(scaling, context=min(scaling.context, length))
    return replace(attention, rope=rope, query_scaling=scaling)
