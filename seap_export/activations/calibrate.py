"""Calibration: every task's texts go through the dense model once, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from seap_export.activations.batches import Batch, length_buckets
from seap_export.activations.layers import LayerRunner
from seap_export.activations.moments import MomentAccumulator
from seap_export.activations.statistics import LayerMoments
from seap_export.sources.source import Source

__all__ = ["collect_moments"]


def collect_moments(
    source: Source,
    token_ids: Mapping[str, Sequence[Sequence[int]]],
    *,
    max_batch_tokens: int = 4096,
    on_layer: Callable[[int], None] = lambda layer: None,
) -> dict[str, list[LayerMoments]]:
    """Moments at the inputs of o_proj and down_proj of every layer, for each task.

    A layer's weights are read once for all tasks and given back before the next layer's. What stays in
    memory are the hidden states of all calibration tokens, hidden_size x 4 bytes each.

    Args:
        source: The dense model.
        token_ids: For each task the token ids of its calibration texts.
        max_batch_tokens: Positions in a batch, padding included; it changes the speed, not the result.
        on_layer: Called with the index of every layer done.
    """
    with torch.inference_mode():
        runner = LayerRunner(source)
        batches = {task: length_buckets(sequences, max_batch_tokens) for task, sequences in token_ids.items()}
        hidden = {task: runner.embed(batches[task]) for task in batches}
        moments: dict[str, list[LayerMoments]] = {task: [] for task in batches}
        for index in range(len(source.spec.layers)):
            for task, done in _run_layer(runner, index, batches, hidden).items():
                moments[task].append(done)
            on_layer(index)
    return moments


def _run_layer(
    runner: LayerRunner, index: int, batches: Mapping[str, list[Batch]], hidden: dict[str, list[torch.Tensor]]
) -> dict[str, LayerMoments]:
    """Replaces the hidden states by the layer's output and returns each task's moments."""
    moments: dict[str, LayerMoments] = {}
    current = _Recorder()
    with runner.layer(index, current.o_proj_input, current.down_proj_input) as run:
        for task, task_batches in batches.items():
            current.start()
            for position, batch in enumerate(task_batches):
                current.real = batch.real
                hidden[task][position] = run(hidden[task][position])
            moments[task] = current.result()
    return moments


class _Recorder:
    """Takes the inputs of the two projections and keeps the moments of the real tokens."""

    real: torch.Tensor

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        self._o_proj = MomentAccumulator()
        self._down_proj = MomentAccumulator()

    def o_proj_input(self, values: torch.Tensor) -> None:
        self._o_proj.update(values[self.real])

    def down_proj_input(self, values: torch.Tensor) -> None:
        self._down_proj.update(values[self.real])

    def result(self) -> LayerMoments:
        return LayerMoments(self._o_proj.result(), self._down_proj.result())
