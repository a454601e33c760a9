"""Shrinks a model layer by layer, each fitted to the actual output of the shrunk layers before it.

Two streams of hidden states go through the layers side by side: the dense model's, and that of the shrunk model so
far. At the end of each half of each layer the output projection is fitted so that the shrunk stream returns to the
dense one: its target is the difference of the two. So a layer also corrects the errors of the layers before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.nn import functional

from seap_export.activations.covariance import CovarianceAccumulator
from seap_export.activations.mixture import Mixture
from seap_export.families import ModelSpec, names
from seap_export.layers.batches import Batch, length_buckets
from seap_export.layers.halves import HALVES, Half
from seap_export.layers.hidden_states import HalfPass, HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.plan.plan import Plan
from seap_export.shrink.layer import shrink_layer, with_all_biases
from seap_export.shrink.refit import refit
from seap_export.shrink.target import refit_target
from seap_export.sources.source import Source

__all__ = ["sequential_layers"]


def sequential_layers(
    source: Source, plan: Plan, statistics: Mixture, max_batch_tokens: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the tensors of every shrunk layer in turn, by full name.

    Memory holds one layer of each model, two hidden states for each calibration token, and the input of one projection
    for each.

    Args:
        source: The dense model.
        plan: What is kept.
        statistics: The calibration texts, and the weights of their tasks.
        max_batch_tokens: Positions in a batch; it affects the speed, not the result.
    """
    with torch.no_grad():
        streams = _Streams(source, plan, statistics, max_batch_tokens)
        for index in range(len(plan.layers)):
            yield streams.layer(index)


class _Streams:
    """The hidden states of both models at the real tokens of each batch."""

    def __init__(self, source: Source, plan: Plan, statistics: Mixture, max_batch_tokens: int) -> None:
        self._source, self._plan = source, plan
        self._spec: ModelSpec = plan.shrunk_spec(source.spec)
        self._tokens = statistics.effective_tokens
        texts = statistics.token_ids()
        batches = length_buckets([ids for ids, _ in texts], max_batch_tokens)
        self._weights = _token_weights(batches, texts)
        self._fitted = plan.compensated(source.spec)
        self._dense = HiddenStates.embedded(source.spec, source.read_outer("embed_tokens"), batches)
        self._shrunk = self._dense.copy()

    def layer(self, index: int) -> dict[str, torch.Tensor]:
        """Shrinks and fits one layer, and advances both streams through it."""
        tensors = self._source.read_layer(index)
        shrunk = shrink_layer(tensors, self._source.spec, index, self._plan.layers[index])
        shrunk = with_all_biases(shrunk, self._spec, index)
        dense, layer = DecoderLayer(self._source.spec, index, tensors), DecoderLayer(self._spec, index, shrunk)
        for half in HALVES:
            if half in self._fitted[index]:
                shrunk |= self._fit(index, half, dense, layer, shrunk)
            else:  # nothing is cut so far, so the streams are still the same
                self._shrunk.advance(layer, half, self._copy_to_dense)
        return shrunk

    def _copy_to_dense(self, passed: HalfPass) -> None:
        self._dense.streams[passed.place].copy_(passed.stream)

    def _fit(
        self,
        index: int,
        half: Half,
        dense: DecoderLayer,
        layer: DecoderLayer,
        shrunk: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Fits one projection, advances both streams past it and returns its new tensors."""
        sums, inputs = CovarianceAccumulator(), []

        def add(passed: HalfPass) -> None:
            place = passed.place
            inputs.append(layer.channels(half, self._shrunk.streams[place], self._shrunk.batches[place]))
            targets, weights = refit_target(dense, half, passed, self._shrunk.streams[place])
            sums.update(inputs[-1], targets, self._weights[place] * weights)

        self._dense.advance(dense, half, add)
        weight, bias = names.weight(half, index), names.bias(half, index)
        fit = refit(
            shrunk[weight].double(),
            sums.mean(),
            sums.covariance(),
            sums.target_mean(),
            sums.cross_covariance(),
            ridge=self._plan.ridge,
            tokens=self._tokens,
            intercept=self._plan.has_intercept(half, self._spec.family),
        )
        dtype = self._source.reader.dtype  # what is stored is what the later layers correct
        stored = {weight: fit.weight.to(dtype)}
        if fit.bias is not None:
            stored[bias] = fit.bias.to(dtype)
        operands = [tensor.float() for tensor in stored.values()]
        for stream, channels in zip(self._shrunk.streams, inputs, strict=True):
            stream += layer.written(half, functional.linear(channels, *operands))
        return stored


def _token_weights(batches: Sequence[Batch], texts: Sequence[tuple[Sequence[int], float]]) -> list[torch.Tensor]:
    """The probability of each real token's text, in units of the mean, for each batch; float32 [tokens]."""
    weight_of = {key: sum(same) / len(same) for key, same in _by_text(texts).items()}
    mean = sum(len(ids) * weight for ids, weight in texts) / sum(len(ids) for ids, _ in texts)
    weights = []
    for batch in batches:
        rows = [tuple(ids[real].tolist()) for ids, real in zip(batch.input_ids, batch.real, strict=True)]
        weights.append(torch.tensor([weight_of[row] / mean for row in rows]).repeat_interleave(batch.real.sum(1)))
    return weights


def _by_text(texts: Sequence[tuple[Sequence[int], float]]) -> dict[tuple[int, ...], list[float]]:
    """The weights of each text; one that belongs to several tasks has several."""
    found: dict[tuple[int, ...], list[float]] = {}
    for ids, weight in texts:
        found.setdefault(tuple(ids), []).append(weight)
    return found
