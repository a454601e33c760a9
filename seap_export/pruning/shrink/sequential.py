"""Shrinks a model layer by layer, each fitted to the output of the shrunk layers before it (`refit_streams`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from seap_export.model.layers.batches import length_buckets, token_weights
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.embedding import Embedding
from seap_export.model.layers.hidden_states import HiddenStates
from seap_export.model.layers.streams import StreamStorage, choose_storage
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.shrink.refit_streams import RefitStreams

#: The name of the dense model's streams.
DENSE = "dense"


class SideBySide:
    """The hidden states of two models at the real tokens of each batch, advanced layer by layer.

    Memory holds a sublayer of each model, two hidden states for each calibration token if they fit, and, if it fits
    besides, the input of one projection for each.

    Args:
        texts: Token ids of the calibration texts, and the probability of each of their tokens; see `TaskMixture`.
        folder: An existing folder for what is needed to go on after an interruption.
    """

    def __init__(
        self,
        source: Source,
        names: tuple[str, str],
        statistics: TaskMixture,
        texts: Sequence[tuple[Sequence[int], float]],
        folder: Path,
        compute: Compute,
    ) -> None:
        self._source = source
        batches = length_buckets([ids for ids, _ in texts], compute.batch_tokens, compute.device)
        storage = storage_for_both(source, statistics, folder, compute)
        self._saved = [storage.streams(name, source.spec, batches) for name in names]
        self._hidden = [HiddenStates(batches, streams) for streams in self._saved]
        self._weights = [weights.to(compute.device) for weights in token_weights(batches, texts)]
        self._room = storage.room(compute, source.spec)

    @property
    def saved(self) -> frozenset[int]:
        """The layers before which both streams were saved; the number of all layers stands for behind the last one."""
        return frozenset.intersection(*(frozenset(streams.saved()) for streams in self._saved))

    def _walk(
        self, first: int, embeddings: Callable[[], Sequence[Embedding]], make: Callable[[int], dict[str, torch.Tensor]]
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the tensors of each layer that is made, from the first one on, by full name.

        The streams are saved after each layer, and what was saved before it stays until the next one is asked for.
        They must have been saved after those before the first one.
        """
        if first == 0:
            for hidden, embedding in zip(self._hidden, embeddings(), strict=True):
                HiddenStates.embedded(self._source.spec, embedding, hidden.batches, hidden.streams)
            del embedding  # before the first layer is made
        else:
            for streams in self._saved:
                streams.load(first)
        for index in range(first, len(self._source.spec.layers)):
            tensors = make(index)
            for streams in self._saved:
                streams.save(index + 1)
            yield tensors
            del tensors  # before the next layer is made
            for streams in self._saved:
                streams.forget(index + 1)


class SequentialLayers(SideBySide):
    """The dense model and the shrunk one."""

    def __init__(self, source: Source, plan: Plan, statistics: TaskMixture, folder: Path, compute: Compute) -> None:
        super().__init__(source, (DENSE, "shrunk"), statistics, statistics.token_ids(), folder, compute)
        dense, shrunk = self._hidden
        self._both = RefitStreams(
            source,
            plan,
            dense,
            shrunk,
            self._weights,
            tokens=statistics.effective_tokens,
            room=self._room,
            device=compute.device,
        )

    def layers(self, first: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the tensors of each shrunk layer from the first one on, by full name; see `SideBySide`."""
        return self._walk(first, lambda: [self._source.read_embedding()] * 2, self._layer)

    def _layer(self, index: int) -> dict[str, torch.Tensor]:
        return self._both.layer(index, self._source.read_layer(index))


def storage_for_both(source: Source, statistics: TaskMixture, folder: Path, compute: Compute) -> StreamStorage:
    """Where the hidden states of both models are kept."""
    return choose_storage(source.spec, statistics.num_tokens, compute, folder, copies=2)
