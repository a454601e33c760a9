"""Compares the walk with transformers' own class before any statistic counts.

A family's description that is wrong in any part shows here: transformers computes the first texts with the source's
own config and tensors, side by side with the walk, a layer at a time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seap_export.activations.shortened import shortened
from seap_export.errors import EnvironmentFailure, InputError
from seap_export.families import ModelSpec, names
from seap_export.layers.batches import Batch, length_buckets
from seap_export.layers.halves import HALVES
from seap_export.layers.hidden_states import HiddenStates, logits, output_stream
from seap_export.layers.layer import DecoderLayer
from seap_export.sources.source import Source
from seap_export.sources.stored import StoredForm

__all__ = ["WalkCheck"]

#: Tokens that are compared; a text is cut there.
_TOKENS = 256
#: Largest difference of a token's hidden states, or logits, relative to their root mean square. Rounding in float32
#: stays near 1e-5 in deep models; another activation, norm, scale, window or rotation is hundreds of times as much.
_LIMIT = 1e-3


class WalkCheck:
    """The walk and transformers' model over the same text.

    Both get a vocabulary of the text's tokens alone, so that embedding and LM head take no memory. Windows, and the
    lengths at which a rotation changes, are at most half of the text, so that it shows what happens beyond them.

    Args:
        source: The dense model.
        texts: Token ids of texts; the longest is used.
        table: The embedding, [vocab_size, hidden_size].

    Raises:
        InputError: The embeddings differ.
        EnvironmentFailure: The installed transformers has no class of this family.
    """

    def __init__(self, source: Source, texts: Sequence[Sequence[int]], table: torch.Tensor) -> None:
        self._source, self._form = source, StoredForm(source.spec)
        (batch,) = length_buckets([max(texts, key=len)[:_TOKENS]], _TOKENS)
        self._vocabulary, ids = batch.input_ids.unique(return_inverse=True)
        rows = table[self._vocabulary]
        config = {**source.config, "vocab_size": len(self._vocabulary), "pad_token_id": None}
        config, self._spec = shortened(config, source.spec, max(ids.numel() // 2, 1))
        self._walk = HiddenStates.embedded(self._spec, rows, [Batch(ids, batch.real)])
        self._model = _StockModel(config, self._spec, ids, self._stored("embed_tokens", rows))
        self._compare("the embedding", self._walk.streams[0], self._model.hidden)

    def _stored(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        return self._form.to_stored({names.tensor(name): tensor})

    def layer(self, index: int, layer: DecoderLayer, tensors: Mapping[str, torch.Tensor]) -> None:
        """Passes one layer and compares what comes out of it.

        Args:
            index: Index of the layer.
            layer: The layer of the walk.
            tensors: Its tensors in the plain form.

        Raises:
            InputError: The two differ by more than rounding.
        """
        for half in HALVES:
            self._walk.advance(layer.under(self._spec), half)
        self._model.layer(index, self._form.to_stored(tensors))
        self._compare(f"layer {index}", self._walk.streams[0], self._model.hidden)

    def logits(self, gain: torch.Tensor, head: torch.Tensor) -> None:
        """Compares the logits of the text's tokens. Call it after the last layer.

        Args:
            gain: The gain of the last norm, [hidden_size].
            head: The LM head, [vocab_size, hidden_size].

        Raises:
            InputError: The two differ by more than rounding.
        """
        spec, rows = self._source.spec, head[self._vocabulary]
        own = logits(spec, rows, output_stream(spec, gain, self._walk.streams[0]))
        outer = self._stored("norm", gain)
        if not spec.tie_word_embeddings:
            outer |= self._stored("lm_head", rows)
        self._compare("the logits", own, self._model.logits(outer))

    def _compare(self, place: str, own: torch.Tensor, stock: torch.Tensor) -> None:
        scale = stock.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        difference = ((own - stock).abs() / scale).max().item()
        if not difference <= _LIMIT:
            raise InputError(
                f"{self._source.name}: from {place} on, the description of the family "
                f"'{self._source.spec.family.model_type}' computes something else than transformers "
                f"({difference:.1e} of the values' size); this model cannot be exported"
            )


class _AllRecorded(Exception):
    """Ends the first forward pass, whose result nobody needs."""


class _StockModel:
    """transformers' own model without weights, filled a layer at a time.

    A first forward pass with empty layers records what transformers passes to each of them (masks, rotations,
    positions), which does not depend on the hidden states.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        spec: ModelSpec,
        input_ids: torch.Tensor,
        embedding: Mapping[str, torch.Tensor],
    ) -> None:
        import transformers

        if not hasattr(transformers, spec.family.architecture):
            raise EnvironmentFailure(
                f"transformers {transformers.__version__} has no {spec.family.architecture}, which the model is "
                "compared with; install a newer release: pip install --upgrade transformers"
            )
        with _parameters_on_meta():  # other backends than eager leave out soft caps
            model = transformers.AutoModelForCausalLM.from_config(
                _stock_config(config), attn_implementation="eager", dtype=torch.float32
            )
        self._model = model.eval()
        self._prefix = spec.family.names["layer"]
        self._ids = input_ids
        self._layers = self._model.get_submodule(self._prefix.partition(".{layer}")[0])
        self._fill(embedding)
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        with self._replaced_layers(self._record), suppress(_AllRecorded):
            self._model(input_ids=self._ids, use_cache=False)
        self._hidden: torch.Tensor = self._calls[0][0][0]
        self._in_tuple = False

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states after the last layer that was passed, float32 [tokens, hidden_size]."""
        return self._hidden[0]

    def layer(self, index: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Passes one layer; its stored tensors are released afterwards."""
        module, prefix = self._layers[index], self._prefix.format(layer=index)
        module.load_state_dict({name.removeprefix(prefix): t.float() for name, t in tensors.items()}, assign=True)
        arguments, keywords = self._calls[index]
        output = module(self._hidden, *arguments[1:], **keywords)
        self._in_tuple = isinstance(output, tuple)  # as in 4.57, in some families
        self._hidden = output[0] if self._in_tuple else output
        module.to("meta")

    def logits(self, outer: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The logits, float32 [tokens, vocab_size], given the stored last norm and, unless it is tied, LM head."""
        self._fill(outer)
        last = (self._hidden,) if self._in_tuple else self._hidden
        with self._replaced_layers(lambda *arguments, **keywords: last):
            output = self._model(input_ids=self._ids, use_cache=False)
        return output.logits[0]

    def _fill(self, outer: Mapping[str, torch.Tensor]) -> None:
        """Loads tensors outside the layers."""
        weights = {name: tensor.float() for name, tensor in outer.items()}
        self._model.load_state_dict(weights, assign=True, strict=False)
        self._model.tie_weights()

    def _record(self, *arguments: Any, **keywords: Any) -> Any:
        self._calls.append((arguments, keywords))
        if len(self._calls) == len(self._layers):
            raise _AllRecorded
        return self._calls[0][0][0].unsqueeze(0)  # which some families of 4.57 take the first of, layer by layer

    @contextmanager
    def _replaced_layers(self, forward: Any) -> Iterator[None]:
        for module in self._layers:
            module.forward = forward
        try:
            yield
        finally:
            for module in self._layers:
                del module.forward


def _stock_config(config: Mapping[str, Any]) -> Any:
    """transformers' config, read from a file as that of any model: some values are spelled differently there."""
    from transformers import AutoConfig

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(config)), "utf-8", newline="\n")
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules made within the block have no memory for parameters; buffers, such as rotary frequencies, stay real."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        moved = None if parameter is None else nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, moved)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
