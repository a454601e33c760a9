"""Records what a model's sublayers write, so that its hidden states can be replayed without new computation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from seap_export.model.families import ModelSpec
from seap_export.model.families.names import Projection
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.hidden_states import HiddenStates, SublayerOutput
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.streams import Streams, StreamStorage


def copies(spec: ModelSpec) -> int:
    """Number of vectors [hidden_size] that a recording keeps for each token."""
    return len(spec.channels)


class Recording:
    """The recorded products of the output projections of all sublayers.

    Args:
        storage: Where the products are kept.
    """

    def __init__(self, spec: ModelSpec, batches: Sequence[Batch], storage: StreamStorage) -> None:
        self._spec, self._batches = spec, list(batches)
        self._products: Mapping[tuple[int, Projection], Streams] = {
            (index, output): storage.streams(f"{output}-{index:05}", spec, batches, spec.hidden_size)
            for index, layer in enumerate(spec.layers)
            for output in layer.outputs
        }

    @torch.no_grad()
    def record(self, embedding: Embedding, layer_of: Callable[[int], Mapping[str, torch.Tensor]]) -> Streams:
        """Runs the model; returns its hidden states after the last layer."""
        hidden = HiddenStates.embedded(self._spec, embedding, self._batches)
        for index in range(len(self._spec.layers)):
            layer = DecoderLayer(self._spec, index, layer_of(index), self._batches[0].device)
            for output in self._spec.layers[index].outputs:
                products = self._products[index, output]

                def keep(passed: SublayerOutput, products: Streams = products) -> None:
                    products[passed.batch_index] = passed.product

                hidden.advance(layer, output, keep)
        return hidden.streams

    def play(self, embedding: Embedding) -> Player:
        """Starts a replay before the first layer."""
        return Player(HiddenStates.embedded(self._spec, embedding, self._batches).streams, self._products)


class Player:
    """A replay of recorded hidden states, which has reached some sublayer."""

    def __init__(self, streams: Streams, products: Mapping[tuple[int, Projection], Streams]) -> None:
        self._streams, self._products = streams, products
        self._held: dict[int, torch.Tensor] = {}

    def advance(self, layer: DecoderLayer, output: Projection, visit: Callable[[SublayerOutput], None]) -> None:
        """Passes one sublayer, and shows the visitor each batch; of the layer, only its norms are used."""
        for batch_index, product in enumerate(self._products[layer.index, output]):
            held = self._held.pop(batch_index, None)
            update = layer.update(output, product, held)
            total = layer.total(output, self._streams[batch_index], update)
            if layer.spec.is_held(output):
                self._held[batch_index] = total
            else:
                self._streams[batch_index] = layer.scaled(output, total)
            visit(SublayerOutput(batch_index, product, held, update, total))
