"""Compares the walk with transformers' own class before any statistic counts.

A family's description that is wrong in any part shows here: transformers computes the first texts with the source's
own config and tensors, side by side with the walk, a layer at a time.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seap_export.errors import InputError
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

    Args:
        source: The dense model.
        texts: Token ids of texts; the longest is used.
    """

    def __init__(self, source: Source, texts: Sequence[Sequence[int]]) -> None:
        self._source, self._form = source, StoredForm(source.spec)
        longest = max(texts, key=len)[:_TOKENS]
        (self._batch,) = length_buckets([longest], _TOKENS)
        self._outer = {name: source.read_outer(name) for name in source.spec.outer_names}
        self._walk = HiddenStates.embedded(source.spec, self._outer["embed_tokens"], [self._batch])
        self._model = _StockModel(source.config, source.spec, self._stored_outer(), self._batch)
        self._compare("the embedding", self._walk.streams[0], self._model.hidden)

    def _stored_outer(self) -> dict[str, torch.Tensor]:
        return self._form.to_stored({names.tensor(name): tensor for name, tensor in self._outer.items()})

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
            self._walk.advance(layer, half)
        self._model.layer(index, self._form.to_stored(tensors))
        self._compare(f"layer {index}", self._walk.streams[0], self._model.hidden)

    def logits(self) -> None:
        """Compares the logits. Call it after the last layer.

        Raises:
            InputError: The two differ by more than rounding.
        """
        spec = self._source.spec
        head = self._outer["embed_tokens" if spec.tie_word_embeddings else "lm_head"]
        own = logits(spec, head, output_stream(spec, self._outer["norm"], self._walk.streams[0]))
        self._compare("the logits", own, self._model.logits())

    def _compare(self, place: str, own: torch.Tensor, stock: torch.Tensor) -> None:
        scale = stock.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
        difference = ((own - stock).abs() / scale).max().item()
        if not difference <= _LIMIT:
            raise InputError(
                f"{self._source.name}: from {place} on, the description of the family "
                f"'{self._source.spec.family.model_type}' computes something else than transformers "
                f"({difference:.1e} of the values' size); this model cannot be exported"
            )


class _StockModel:
    """transformers' own model without weights, filled a layer at a time.

    A first forward pass with empty layers records what transformers passes to each of them (masks, rotations,
    positions), which does not depend on the hidden states.
    """

    def __init__(
        self, config: Mapping[str, Any], spec: ModelSpec, outer: Mapping[str, torch.Tensor], batch: Batch
    ) -> None:
        from transformers import AutoModelForCausalLM

        with _parameters_on_meta():
            model = AutoModelForCausalLM.from_config(
                _stock_config(config),
                attn_implementation="eager",
                dtype=torch.float32,  # which every family has
            )
        self._model = model.eval()
        self._prefix = spec.family.names["layer"]
        self._ids = batch.input_ids
        self._layers = self._model.get_submodule(spec.family.names["layer"].partition(".{layer}")[0])
        self._model.load_state_dict(
            {name: tensor.float() for name, tensor in outer.items()}, assign=True, strict=False
        )
        self._model.tie_weights()
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        with self._replaced_layers(self._record):
            self._model(input_ids=self._ids, use_cache=False)
        self._hidden: torch.Tensor = self._calls[0][0][0]

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
        self._hidden = output[0] if isinstance(output, tuple) else output
        module.to("meta")

    def logits(self) -> torch.Tensor:
        """The logits, float32 [tokens, vocab_size]."""
        with self._replaced_layers(lambda *arguments, **keywords: self._hidden):
            output = self._model(input_ids=self._ids, use_cache=False)
        return output.logits[0]

    def _record(self, *arguments: Any, **keywords: Any) -> Any:
        self._calls.append((arguments, keywords))
        return arguments[0]

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
