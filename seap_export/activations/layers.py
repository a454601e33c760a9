"""Runs a model one layer at a time, with only that layer's weights in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from seap_export.layers.batches import Batch
from seap_export.families import ModelSpec

__all__ = ["HALVES", "DecoderLayer", "Half", "LayerRunner", "embed"]

#: The projection at the end of each half of a layer, which also names the half: attention, then MLP.
Half = Literal["o_proj", "down_proj"]
HALVES: tuple[Half, ...] = get_args(Half)


@dataclass(frozen=True)
class DecoderLayer:
    """A layer with its weights, in two halves: hidden + o_proj(attention), then hidden + down_proj(neurons)."""

    attention_norm: nn.Module
    attention: nn.Module
    mlp_norm: nn.Module
    mlp: nn.Module
    projections: Mapping[Half, nn.Module]
    rotary: nn.Module
    sliding_window: int | None

    def channels(self, half: Half, hidden: torch.Tensor) -> torch.Tensor:
        """The input of o_proj or down_proj, [batch, length, channels]; `hidden` is [batch, length, hidden_size].

        For down_proj any number of leading dimensions will do.
        """
        return self._attend(hidden) if half == "o_proj" else self.mlp(self.mlp_norm(hidden))

    def real_channels(self, half: Half, stream: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The input of o_proj or down_proj at the real tokens of a batch, [tokens, channels].

        Only attention needs to know which text a token belongs to; everything else runs without padding.

        Args:
            half: Which projection.
            stream: The hidden states of the real tokens, [tokens, hidden_size].
            batch: The batch that they come from.
        """
        if half == "o_proj":
            return batch.packed(self._attend(batch.padded(stream)))
        return self.channels(half, stream)

    def _attend(self, hidden: torch.Tensor) -> torch.Tensor:
        length, window = hidden.shape[1], self.sliding_window
        positions = torch.arange(length).unsqueeze(0)
        output = self.attention(
            hidden_states=self.attention_norm(hidden),
            attention_mask=_window_mask(length, window) if window is not None and window < length else None,
            position_ids=positions,
            position_embeddings=self.rotary(hidden, positions),
        )
        return output[0]


class LayerRunner:
    """The decoder layers of transformers, built without weights and filled in turn.

    Batches are padded on the right: with causal attention no real token ever sees padding, so no padding mask is
    needed for the real tokens to be right.
    """

    def __init__(self, config: Mapping[str, Any], spec: ModelSpec) -> None:
        """Takes the config.json and the shapes of a dense or shrunk model."""
        from transformers import AutoConfig, AutoModelForCausalLM

        self._spec = spec
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**config), attn_implementation="sdpa", dtype=torch.float32
            )
        self._layers: nn.ModuleList = model.model.layers
        rotary = model.model.rotary_emb
        self._rotary: nn.Module = type(rotary)(rotary.config)  # again, off the meta device

    @contextmanager
    def layer(self, index: int, tensors: Mapping[str, torch.Tensor]) -> Iterator[DecoderLayer]:
        """A layer filled with its tensors, in float32; they are released when the block ends.

        Args:
            index: Index of the layer.
            tensors: All tensors of the layer, by full name.
        """
        names = self._spec.family.names
        module = self._layers[index]
        prefix = names["layer"].format(layer=index)
        module.load_state_dict({name.removeprefix(prefix): t.float() for name, t in tensors.items()}, assign=True)
        projections = {half: module.get_submodule(names[half]) for half in HALVES}
        for half, projection in projections.items():
            module.set_submodule(names[half], nn.Identity())  # so that its module returns its input
            projection.requires_grad_(False)
        try:
            yield DecoderLayer(
                attention_norm=module.get_submodule(names["input_layernorm"].removesuffix(".weight")),
                attention=module.get_submodule(names["o_proj"].rpartition(".")[0]),
                mlp_norm=module.get_submodule(names["post_attention_layernorm"].removesuffix(".weight")),
                mlp=module.get_submodule(names["down_proj"].rpartition(".")[0]),
                projections=projections,
                rotary=self._rotary,
                sliding_window=self._spec.layers[index].sliding_window,
            )
        finally:
            for half, projection in projections.items():
                module.set_submodule(names[half], projection)
            module.to("meta")


def embed(table: torch.Tensor, batches: Sequence[Batch]) -> list[torch.Tensor]:
    """Token embeddings of each batch, float32 [batch, length, hidden_size].

    Args:
        table: The embedding, [vocab_size, hidden_size].
        batches: Token ids.
    """
    return [nn.functional.embedding(batch.input_ids, table).float() for batch in batches]


def _window_mask(length: int, window: int) -> torch.Tensor:
    """True where a query (row) sees a key (column): itself and the `window` - 1 before; [1, 1, length, length]."""
    distance = torch.arange(length).unsqueeze(1) - torch.arange(length).unsqueeze(0)
    return ((distance >= 0) & (distance < window))[None, None]
