"""Running the dense model one layer at a time, each layer's weights in memory only while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from seap_export.activations.batches import Batch
from seap_export.sources.source import Source

__all__ = ["LayerRunner"]

InputHook = Callable[[torch.Tensor], None]


class LayerRunner:
    """The decoder layers of transformers, built without weights and filled in turn.

    Batches are padded on the right: with causal attention no real token ever sees padding, so no padding mask is
    needed for the real tokens to be right.
    """

    def __init__(self, source: Source) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        self._source = source
        config = AutoConfig.for_model(**source.config)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
        self._layers: nn.ModuleList = model.model.layers
        self._rotary: nn.Module = type(model.model.rotary_emb)(model.config)

    def embed(self, batches: Sequence[Batch]) -> list[torch.Tensor]:
        """Token embeddings of each batch, float32 [batch, length, hidden_size]; the table is read once."""
        table = self._source.read_outer("embed_tokens")
        return [nn.functional.embedding(batch.input_ids, table).float() for batch in batches]

    @contextmanager
    def layer(self, index: int, o_proj_input: InputHook, down_proj_input: InputHook) -> Iterator[Callable[..., Any]]:
        """Loads a layer and gives a function from hidden states to hidden states, [batch, length, hidden_size].

        While it runs, the hooks are shown the inputs of its o_proj and down_proj, [batch, length, channels].
        """
        family = self._source.spec.family
        module = self._layers[index]
        prefix = family.names["layer"].format(layer=index)
        tensors = self._source.read_layer(index)
        module.load_state_dict({name.removeprefix(prefix): t.float() for name, t in tensors.items()}, assign=True)
        hooks = [
            _watch(module.get_submodule(family.names["o_proj"]), o_proj_input),
            _watch(module.get_submodule(family.names["down_proj"]), down_proj_input),
        ]
        try:
            yield lambda hidden: self._run(module, index, hidden)
        finally:
            for hook in hooks:
                hook.remove()
            module.to("meta")

    def _run(self, module: nn.Module, index: int, hidden: torch.Tensor) -> torch.Tensor:
        length = hidden.shape[1]
        positions = torch.arange(length).unsqueeze(0)
        window = self._source.spec.layers[index].sliding_window
        output = module(
            hidden,
            attention_mask=_window_mask(length, window) if window is not None and window < length else None,
            position_ids=positions,
            position_embeddings=self._rotary(hidden, positions),
        )
        return output[0] if isinstance(output, tuple) else output


def _watch(projection: nn.Module, hook: InputHook) -> RemovableHandle:
    return projection.register_forward_pre_hook(lambda _, inputs: hook(inputs[0]))


def _window_mask(length: int, window: int) -> torch.Tensor:
    """True where a query (row) sees a key (column): itself and the `window` - 1 before; [1, 1, length, length]."""
    distance = torch.arange(length).unsqueeze(1) - torch.arange(length).unsqueeze(0)
    return ((distance >= 0) & (distance < window))[None, None]
