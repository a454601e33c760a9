"""Shrinks a model layer by layer, each fitted to the output of the shrunk layers before it (`refit_streams`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from seap_export.activations.mixture import Mixture
from seap_export.layers.batches import length_buckets, token_weights
from seap_export.layers.compute import Compute
from seap_export.layers.hidden_states import HiddenStates
from seap_export.layers.streams import StreamStorage, choose_storage
from seap_export.plan.plan import Plan
from seap_export.shrink.refit_streams import RefitStreams
from seap_export.sources.source import Source

__all__ = ["DENSE", "SequentialLayers", "storage_for"]

#: The name of the dense model's streams.
DENSE = "dense"


class SequentialLayers:
    """The hidden states of both models at the real tokens of each batch, advanced layer by layer.

    Memory holds a sublayer of each model, two hidden states for each calibration token if they fit, and, if it fits
    besides, the input of one projection for each.

    Args:
        source: The dense model.
        plan: What is kept.
        statistics: The calibration texts, and the weights of their tasks.
        folder: An existing folder for what is needed to go on after an interruption.
        compute: Where layers are computed, and with how much memory.
    """

    def __init__(self, source: Source, plan: Plan, statistics: Mixture, folder: Path, compute: Compute) -> None:
        self._source, self._number = source, len(plan.layers)
        texts = statistics.token_ids()
        batches = length_buckets([ids for ids, _ in texts], compute.batch_tokens, compute.device)
        storage = storage_for(source, statistics, folder, compute)
        self._saved = [storage.streams(name, source.spec, batches) for name in (DENSE, "shrunk")]
        dense, shrunk = self._hidden = tuple(HiddenStates(batches, streams) for streams in self._saved)
        self._both = RefitStreams(
            source,
            plan,
            dense,
            shrunk,
            token_weights(batches, texts),
            tokens=statistics.effective_tokens,
            room=storage.room(compute, source.spec),
            device=compute.device,
        )

    @property
    def finished(self) -> int:
        """The number of layers that both streams were saved after."""
        both = set.intersection(*(set(streams.saved()) for streams in self._saved))
        return max(both, default=0)

    def layers(self, first: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the tensors of each shrunk layer from the first one on, by full name.

        The streams are saved after each layer, and what was saved before it stays until the next one is asked for.
        They must have been saved after those before the first one.
        """
        if first == 0:
            embedding = self._source.read_embedding()
            for hidden in self._hidden:
                HiddenStates.embedded(self._source.spec, embedding, hidden.batches, hidden.streams)
            del embedding
        else:
            for streams in self._saved:
                streams.load(first)
        for index in range(first, self._number):
            tensors = self._both.layer(index, self._source.read_layer(index))
            for streams in self._saved:
                streams.save(index + 1)
            yield tensors
            del tensors  # before the next layer is made
            for streams in self._saved:
                streams.forget(index + 1)


def storage_for(source: Source, statistics: Mixture, folder: Path, compute: Compute) -> StreamStorage:
    """Where the hidden states of both models are kept."""
    return choose_storage(source.spec, statistics.num_tokens, compute, folder, copies=2)
