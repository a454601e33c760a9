"""Divides the calibration texts into training steps and their batches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from seap_export.model.layers.batches import Batch, length_buckets, token_weights
from seap_export.model.layers.compute import Compute

#: Token ids of a text, and the probability of each of its tokens.
WeightedIds: TypeAlias = tuple[Sequence[int], float]

#: Tokens of a training step, and positions of a group of texts of similar length.
STEP_TOKENS, _GROUP_TOKENS = 2048, 1024


@dataclass(frozen=True)
class TrainingStep:
    """The batches whose gradients are added up before the weights change.

    `weights` has that of each real token, float32 [tokens] for each batch; they sum to 1 over the step.
    """

    batch_indices: tuple[int, ...]
    batches: tuple[Batch, ...]
    weights: tuple[torch.Tensor, ...]


def number_of_steps(passes: float, steps_of_a_pass: int) -> int:
    """Training steps in a number of passes over the texts, which may be a fraction."""
    return math.ceil(passes * steps_of_a_pass)


def training_steps(texts: Sequence[WeightedIds], compute: Compute) -> list[TrainingStep]:
    """The steps of one pass over the texts.

    Texts of similar length form groups, which come in the order of their digests. Groups do not depend on the size of
    a batch. All batches together hold the texts in the order in which `length_buckets` has them, whatever its size.
    """
    groups, batches = list[range](), list[Batch]()
    digests = []
    for group in length_buckets([ids for ids, _ in texts], _GROUP_TOKENS):
        digests.append(hashlib.sha256(group.input_ids.numpy().tobytes()).digest())
        rows = [ids[real].tolist() for ids, real in zip(group.input_ids, group.real, strict=True)]
        start = len(batches)
        batches += length_buckets(rows, compute.batch_tokens, compute.device)
        groups.append(range(start, len(batches)))
    weights = token_weights(batches, texts)
    steps, tokens = list[list[int]](), STEP_TOKENS
    for index in sorted(range(len(groups)), key=lambda index: digests[index]):
        group_tokens = sum(batches[batch_index].num_tokens for batch_index in groups[index])
        if tokens + group_tokens > STEP_TOKENS:
            steps.append([])
            tokens = 0
        steps[-1] += groups[index]
        tokens += group_tokens
    return [_step(batch_indices, batches, weights) for batch_indices in steps]


def batches_of(steps: Sequence[TrainingStep]) -> list[Batch]:
    """The batches of the steps of a pass, in the order of the texts."""
    by_index = {
        position: batch for step in steps for position, batch in zip(step.batch_indices, step.batches, strict=True)
    }
    return [by_index[position] for position in range(len(by_index))]


def _step(batch_indices: Sequence[int], batches: Sequence[Batch], weights: Sequence[torch.Tensor]) -> TrainingStep:
    step_weights = [weights[index] for index in batch_indices]
    total = sum(float(part.double().sum()) for part in step_weights)
    return TrainingStep(
        tuple(batch_indices),
        tuple(batches[index] for index in batch_indices),
        tuple((part / total).float() for part in step_weights),
    )
