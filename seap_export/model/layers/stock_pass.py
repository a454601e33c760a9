"""A batch of sequences on its way through the layers of transformers' model, and the caches that it fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from seap_export.model.families import LayerSpec, Mamba, ModelSpec

#: The positional arguments of a layer, and those by keyword.
RecordedCall = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class BatchPass:
    """A batch of token sequences on its way through the layers, in one part or in several.

    Attributes:
        hidden: The hidden states of each part, [batch, tokens of the part, hidden_size].
        caches: transformers' caches by layer, as far as they are held: `take` those that are not needed any more.
        groups: The key/value heads of each layer with attention.
        calls: The arguments of each layer after the hidden states, for each part.
        length: How many tokens of each sequence there are so far.
        fill: Gives the keys and values that a layer's cache begins with, [batch, KV heads, tokens, head_dim] each,
            which `length` counts; None: it begins empty.
    """

    hidden: list[torch.Tensor] = field(default_factory=list)
    caches: dict[int, Any] = field(default_factory=dict)
    groups: Mapping[int, int] = field(default_factory=dict)
    calls: list[list[RecordedCall]] = field(default_factory=list)
    length: int = 0
    fill: Callable[[int], Sequence[torch.Tensor]] | None = None

    def spread(self, lengths: Sequence[int]) -> None:
        """Makes a batch of a single sequence that has passed all layers, with a cache that can be rewound.

        Args:
            lengths: How many of the sequence's first tokens each row begins with; padding on the left fills it up.
        """
        for layer in self.caches.values():
            _change(layer, lambda states: _spread(states, lengths))

    def keep(self, rows: Sequence[int]) -> None:
        """Goes on with these rows of a batch that has passed all layers, with a cache."""
        for layer in self.caches.values():
            _change(layer, lambda states: states[list(rows)])

    def take(self, index: int) -> dict[str, torch.Tensor]:
        """Takes out the states of a layer, with a row for each sequence: `key` and `value`, `conv`, `recurrent`."""
        layer, states = self.caches.pop(index), dict[str, torch.Tensor]()
        if getattr(layer, "keys", None) is not None:
            shared = layer.keys.shape[1] // self.groups[index]  # Falcon's class repeats them for the query heads
            states |= {"key": layer.keys[:, ::shared], "value": layer.values[:, ::shared]}
        if hasattr(layer, "conv_states"):  # of which transformers keeps one token more than the next call sees
            states["conv"] = layer.conv_states[0][..., 1:]
            recurrent = layer.recurrent_states[0]
            if recurrent is not None:
                states["recurrent"] = recurrent.transpose(2, 3) if layer.is_transposed else recurrent
        return states


def _spread(cached: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    """[rows, KV heads, tokens, head_dim] of the first `lengths` tokens of [1, KV heads, tokens, head_dim] each."""
    tokens = cached.shape[2]
    rows = cached.new_zeros(len(lengths), *cached.shape[1:])
    for row, length in zip(rows, lengths, strict=True):
        row[:, tokens - length :] = cached[0, :, :length]
    return rows


def new_cache(layers: Sequence[Any]) -> Any:
    """A cache of these layers.

    It is made without the config, so that layers with a sliding window keep all keys and rely on the mask.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    if not hasattr(cache, "has_previous_state"):
        cache.has_previous_state = False  # 4.57's Granite 4 asks for it
    cache.layers = list(layers)
    return cache


def has_caches_for(spec: ModelSpec) -> bool:
    """Whether transformers has a cache for the layers' states: that of 4.57 is for keys and values alone."""
    from transformers import cache_utils

    is_known = all("key" in sublayer.states for sublayer in spec.sublayers if sublayer.states)
    return is_known or hasattr(cache_utils, "LinearAttentionLayer")


def empty_cache_layer(layer: LayerSpec) -> Any:
    from transformers import cache_utils

    states = {state for sublayer in layer.sublayers for state in sublayer.states}
    if not states - {"key", "value"}:
        return cache_utils.DynamicLayer()
    has_keys = "key" in states
    kept = cache_utils.LinearAttentionAndFullAttentionLayer() if has_keys else cache_utils.LinearAttentionLayer()
    kept.is_transposed = any(isinstance(sublayer, Mamba) for sublayer in layer.sublayers)  # transformers' states
    return kept


def _change(layer: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    if getattr(layer, "keys", None) is not None:
        layer.keys, layer.values = change(layer.keys), change(layer.values)
    for name in ("conv_states", "recurrent_states"):
        kept = {number: states for number, states in getattr(layer, name, {}).items() if states is not None}
        for number, states in kept.items():
            getattr(layer, name)[number] = change(states)


def filled_cache(length: int, layers: int, device: torch.device) -> Any:
    """A cache as long as the parts before have filled it, with keys that nobody reads."""
    from transformers.cache_utils import DynamicLayer

    if not length:
        return new_cache([])
    layer = DynamicLayer()
    keys = torch.zeros(1, 1, length, 1, device=device)
    layer.update(keys, keys)
    return new_cache([layer] * layers)
