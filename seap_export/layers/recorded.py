"""A model's hidden states that are passed again and again without being computed again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from seap_export.families import ModelSpec
from seap_export.layers.batches import Batch
from seap_export.layers.halves import HALVES, Half
from seap_export.layers.hidden_states import HalfOutput, HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.streams import Streams, StreamStorage

__all__ = ["Recording", "copies"]


def copies(spec: ModelSpec) -> int:
    """Values of hidden_size that a recording keeps for each token."""
    return 2 * len(spec.layers)


class Recording:
    """What each half of each layer wrote: the products of o_proj and down_proj.

    Args:
        spec: The model.
        batches: The texts.
        storage: Where the products are kept.
    """

    def __init__(self, spec: ModelSpec, batches: Sequence[Batch], storage: StreamStorage) -> None:
        self._spec, self._batches = spec, list(batches)
        self._products: Mapping[tuple[int, Half], Streams] = {
            (index, half): storage.streams(f"{half}-{index:05}", spec, batches)
            for index in range(len(spec.layers))
            for half in HALVES
        }

    @torch.no_grad()
    def record(self, table: torch.Tensor, layer_of: Callable[[int], Mapping[str, torch.Tensor]]) -> Streams:
        """Runs the model; returns its hidden states after the last layer.

        Args:
            table: Its embedding, [vocab_size, hidden_size].
            layer_of: Gives the tensors of a layer.
        """
        hidden = HiddenStates.embedded(self._spec, table, self._batches)
        for index in range(len(self._spec.layers)):
            layer = DecoderLayer(self._spec, index, layer_of(index), self._batches[0].device)
            for half in HALVES:
                products = self._products[index, half]

                def keep(passed: HalfOutput, products: Streams = products) -> None:
                    products[passed.batch_index] = passed.product

                hidden.advance(layer, half, keep)
        return hidden.streams

    def play(self, table: torch.Tensor) -> Player:
        """The hidden states before the first layer, to be advanced."""
        return Player(HiddenStates.embedded(self._spec, table, self._batches).streams, self._products)


class Player:
    """Recorded hidden states.

    Args:
        streams: Those before the first layer.
        products: What each half of each layer wrote.
    """

    def __init__(self, streams: Streams, products: Mapping[tuple[int, Half], Streams]) -> None:
        self._streams, self._products = streams, products

    def advance(self, layer: DecoderLayer, half: Half, visit: Callable[[HalfOutput], None]) -> None:
        """Passes one half of a layer, and shows the visitor each batch; of the layer, only its norms are used."""
        for batch_index, product in enumerate(self._products[layer.index, half]):
            update = layer.update(half, product)
            after = self._streams[batch_index] = self._streams[batch_index] + update
            visit(HalfOutput(batch_index, product, update, after))
