"""Shrinks a model layer by layer, each fitted to the actual output of the shrunk layers before it.

Two streams of hidden states go through the layers side by side: the dense model's, and that of the shrunk model so
far. At the end of each half of each layer the output projection is fitted so that the shrunk stream returns to the
dense one: its target is the difference of the two. So a layer also corrects the errors of the layers before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch.nn import functional

from seap_export.activations.covariance import CovarianceAccumulator
from seap_export.activations.mixture import Mixture
from seap_export.families import ModelSpec, names
from seap_export.layers.batches import length_buckets, token_weights
from seap_export.layers.compute import Compute
from seap_export.layers.halves import HALVES, Half, half_tensors
from seap_export.layers.hidden_states import HalfPass, HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.layers.streams import Storage, choose_storage
from seap_export.plan.plan import Plan
from seap_export.shrink.layer import shrink_layer, with_all_biases
from seap_export.shrink.refit import OutputFit, refit
from seap_export.shrink.target import refit_target
from seap_export.sources.source import Source

__all__ = ["DENSE", "Inputs", "SequentialLayers", "storage_for"]

#: The name of the dense model's streams.
DENSE = "dense"


class SequentialLayers:
    """The hidden states of both models at the real tokens of each batch, advanced layer by layer.

    Memory holds half a layer of each model, two hidden states for each calibration token if they fit, and, if it fits
    besides, the input of one projection for each.

    Args:
        source: The dense model.
        plan: What is kept.
        statistics: The calibration texts, and the weights of their tasks.
        folder: An existing folder for what is needed to go on after an interruption.
        compute: Where layers are computed, and with how much memory.
    """

    def __init__(self, source: Source, plan: Plan, statistics: Mixture, folder: Path, compute: Compute) -> None:
        self._source, self._plan, self._device = source, plan, compute.device
        self._spec: ModelSpec = plan.shrunk_spec(source.spec)
        self._tokens = statistics.effective_tokens
        texts = statistics.token_ids()
        batches = length_buckets([ids for ids, _ in texts], compute.batch_tokens, compute.device)
        self._weights = token_weights(batches, texts)
        self._fitted = plan.compensated(source.spec)
        storage = storage_for(source, statistics, folder, compute)
        self._saved = [storage.streams(name, source.spec, batches) for name in (DENSE, "shrunk")]
        self._dense, self._shrunk = (HiddenStates(batches, streams) for streams in self._saved)
        self._room = storage.room(compute, source.spec)

    @property
    def finished(self) -> int:
        """The number of layers that both streams were saved after."""
        both = set.intersection(*(set(streams.saved()) for streams in self._saved))
        return max(both, default=0)

    @torch.no_grad()
    def layers(self, first: int) -> Iterator[dict[str, torch.Tensor]]:
        """Yields the tensors of each shrunk layer from the first one on, by full name.

        The streams are saved after each layer, and what was saved before it stays until the next one is asked for.
        They must have been saved after those before the first one.
        """
        if first == 0:
            table = self._source.read_outer("embed_tokens")
            for hidden, streams in zip((self._dense, self._shrunk), self._saved, strict=True):
                HiddenStates.embedded(self._source.spec, table, hidden.batches, streams)
            del table
        else:
            for streams in self._saved:
                streams.load(first)
        for index in range(first, len(self._plan.layers)):
            tensors = self._layer(index)
            for streams in self._saved:
                streams.save(index + 1)
            yield tensors
            del tensors  # before the next layer is made
            for streams in self._saved:
                streams.forget(index + 1)

    def _layer(self, index: int) -> dict[str, torch.Tensor]:
        """Shrinks and fits one layer, and advances both streams through it."""
        tensors = self._source.read_layer(index)
        shrunk = shrink_layer(tensors, self._source.spec, index, self._plan.layers[index])
        shrunk = with_all_biases(shrunk, self._spec, index)
        for half in HALVES:
            layer = DecoderLayer(self._spec, index, half_tensors(shrunk, index, half), self._device)
            if half in self._fitted[index]:
                own = half_tensors(tensors, index, half)
                shrunk |= self._fit(index, half, own, layer, shrunk[names.weight(half, index)])
            else:  # nothing is cut so far, so the streams are still the same
                self._shrunk.advance(layer, half, self._copy_to_dense)
            del layer  # before the next half is converted
        return shrunk

    def _copy_to_dense(self, passed: HalfPass) -> None:
        self._dense.streams[passed.place] = passed.stream

    def _fit(
        self,
        index: int,
        half: Half,
        tensors: Mapping[str, torch.Tensor],
        layer: DecoderLayer,
        weight: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Fits one projection, advances both streams past it and returns its new tensors."""
        inputs = Inputs(layer, half, self._shrunk, self._room)
        fit = self._fit_to(self._sums(index, half, tensors, inputs), half, weight)
        dtype = self._source.reader.dtype  # what is stored is what the later layers correct
        stored = {names.weight(half, index): fit.weight.to(dtype)}
        if fit.bias is not None:
            stored[names.bias(half, index)] = fit.bias.to(dtype)
        del fit
        operands = [tensor.float() for tensor in stored.values()]
        for place in range(len(self._weights)):
            product = functional.linear(inputs.take(place), *operands)
            self._shrunk.streams[place] = self._shrunk.streams[place] + layer.written(half, product)
        return {name: tensor.cpu() for name, tensor in stored.items()}

    def _sums(
        self, index: int, half: Half, tensors: Mapping[str, torch.Tensor], inputs: Inputs
    ) -> CovarianceAccumulator:
        """Advances the dense stream, and sums the shrunk model's inputs and what they are fitted to."""
        dense, sums = DecoderLayer(self._source.spec, index, tensors, self._device), CovarianceAccumulator()

        def add(passed: HalfPass) -> None:
            stream = self._shrunk.streams[passed.place]
            targets, weights = refit_target(dense, half, passed, stream)
            own = self._weights[passed.place].to(self._device)
            sums.update(inputs.make(passed.place, stream), targets, own * weights)

        self._dense.advance(dense, half, add)
        return sums

    def _fit_to(self, sums: CovarianceAccumulator, half: Half, weight: torch.Tensor) -> OutputFit:
        mean, target_mean = sums.mean(), sums.target_mean()  # each sum is released as soon as it is used
        return refit(
            weight.to(self._device).double(),
            mean,
            sums.covariance(),
            target_mean,
            sums.cross_covariance(),
            ridge=self._plan.ridge,
            tokens=self._tokens,
            intercept=self._plan.has_intercept(half, self._spec.family),
        )


class Inputs:
    """A projection's inputs in the changed model, before the fit and after it: kept if they fit, or made again."""

    def __init__(self, layer: DecoderLayer, half: Half, hidden: HiddenStates, room: int) -> None:
        self._layer, self._half, self._hidden, self._room = layer, half, hidden, room
        self._kept: dict[int, torch.Tensor] = {}

    def make(self, place: int, stream: torch.Tensor) -> torch.Tensor:
        """The inputs in one batch, [tokens, channels], given its stream."""
        channels = self._layer.channels(self._half, stream, self._hidden.batches[place])
        if channels.nbytes <= self._room:
            self._room -= channels.nbytes
            self._kept[place] = channels
        return channels

    def take(self, place: int) -> torch.Tensor:
        """The same again, which ends their being kept."""
        kept = self._kept.pop(place, None)
        if kept is not None:
            return kept
        return self._layer.channels(self._half, self._hidden.streams[place], self._hidden.batches[place])


def storage_for(source: Source, statistics: Mixture, folder: Path, compute: Compute) -> Storage:
    """Where the hidden states of both models are kept."""
    return choose_storage(source.spec, statistics.num_tokens, compute, folder, copies=2)
