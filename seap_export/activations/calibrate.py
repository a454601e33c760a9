"""Calibration: every task's texts go through the dense model once, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.activations.covariance import CovarianceAccumulator
from seap_export.activations.moments import MomentAccumulator, Moments
from seap_export.activations.sensitivity import (
    SENSITIVITY_TOKENS,
    last_gradients,
    residual_sensitivity,
    sensitivity_texts,
)
from seap_export.activations.walk_check import WalkCheck
from seap_export.layers.batches import length_buckets
from seap_export.layers.halves import HALVES, Half
from seap_export.layers.hidden_states import HalfPass, HiddenStates
from seap_export.layers.layer import DecoderLayer
from seap_export.sources.source import Source

__all__ = ["HalfStatistics", "LayerStatistics", "collect_statistics"]


@dataclass(frozen=True)
class HalfStatistics:
    """The input of o_proj or down_proj over all real tokens: moments, and covariance, float64 [channels, channels]."""

    moments: Moments
    covariance: torch.Tensor


LayerStatistics = Mapping[Half, HalfStatistics]


def collect_statistics(
    source: Source,
    token_ids: Mapping[str, Sequence[Sequence[int]]],
    on_layer: Callable[[int, Mapping[str, LayerStatistics]], None],
    *,
    max_batch_tokens: int = 1024,
) -> dict[str, torch.Tensor]:
    """Runs all tasks' texts, reports the statistics of each layer as it finishes, and returns the sensitivities.

    A layer's weights are read once for all tasks and released before the next layer's are read. The hidden states of
    all calibration tokens stay in memory, hidden_size x 4 bytes each, and at every layer those of the few hundred
    tokens that the sensitivity is taken from.

    Args:
        source: The dense model.
        token_ids: For each task the token ids of its calibration texts.
        on_layer: Called with the index of each layer and, for each task, its statistics.
        max_batch_tokens: Positions in a batch, padding included; it affects the speed, not the result.

    Returns:
        For each task the result of `residual_sensitivity` for its first texts.

    Raises:
        InputError: A weight is not finite, or the model computes something else than transformers does.
        EnvironmentFailure: The installed transformers has no class of the model's family.
    """
    with torch.no_grad():
        run = _Run(source, token_ids, max_batch_tokens)
        for index in range(len(source.spec.layers)):
            on_layer(index, run.layer(index))
    return run.sensitivity()


class _Run:
    """The hidden states of the real tokens of all tasks, advanced layer by layer."""

    def __init__(self, source: Source, token_ids: Mapping[str, Sequence[Sequence[int]]], max_tokens: int) -> None:
        self._source = source
        self._first: dict[str, int] = {}  # number of batches that the sensitivity is computed from
        self._hidden: dict[str, HiddenStates] = {}
        table = source.read_outer("embed_tokens")
        for task, sequences in token_ids.items():
            texts = sensitivity_texts(sequences)
            first = length_buckets(sequences[:texts], SENSITIVITY_TOKENS)
            self._first[task] = len(first)
            batches = first + length_buckets(sequences[texts:], max_tokens)
            self._hidden[task] = HiddenStates.embedded(source.spec, table, batches)
        self._check = WalkCheck(source, [ids for sequences in token_ids.values() for ids in sequences], table)
        self._inputs: list[dict[str, list[torch.Tensor]]] = []

    def layer(self, index: int) -> dict[str, LayerStatistics]:
        """Runs one layer; replaces the hidden states by its output."""
        self._inputs.append({task: [stream.clone() for stream in own] for task, own in self._of_first().items()})
        tensors = self._source.read_layer(index)
        layer = DecoderLayer(self._source.spec, index, tensors)
        self._check.layer(index, layer, tensors)
        return {task: {half: _run_half(layer, half, own) for half in HALVES} for task, own in self._hidden.items()}

    def sensitivity(self) -> dict[str, torch.Tensor]:
        """The sensitivities; call it after the last layer."""
        spec = self._source.spec
        gain = self._source.read_outer("norm")
        head = self._source.read_outer("embed_tokens" if spec.tie_word_embeddings else "lm_head")
        self._check.logits(gain, head)
        batches = {task: own.batches[: self._first[task]] for task, own in self._hidden.items()}
        gradients = {task: last_gradients(spec, gain, head, own) for task, own in self._of_first().items()}
        return residual_sensitivity(self._source, batches, self._inputs, gradients)

    def _of_first(self) -> dict[str, list[torch.Tensor]]:
        return {task: hidden.streams[: self._first[task]] for task, hidden in self._hidden.items()}


def _run_half(layer: DecoderLayer, half: Half, hidden: HiddenStates) -> HalfStatistics:
    moments, covariance = MomentAccumulator(), CovarianceAccumulator()

    def add(passed: HalfPass) -> None:
        moments.update(passed.channels)
        covariance.update(passed.channels)

    hidden.advance(layer, half, add)
    return HalfStatistics(moments.result(), covariance.covariance())
