"""The batches of each training step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seap_export.layers.batches import Batch

__all__ = ["STEP_TOKENS", "TrainingStep", "number_of_steps", "training_steps"]

#: Tokens of a training step.
STEP_TOKENS = 2048


@dataclass(frozen=True)
class TrainingStep:
    """The batches whose gradients are added up before the weights change.

    Attributes:
        places: Their indices among all batches.
        batches: Their texts.
        weights: What each real token counts, float32 [tokens] for each batch; they sum to 1 over the step.
    """

    places: tuple[int, ...]
    batches: tuple[Batch, ...]
    weights: tuple[torch.Tensor, ...]


def number_of_steps(passes: float, steps_of_a_pass: int) -> int:
    """Training steps in a number of passes over the texts, which may be a fraction."""
    return math.ceil(passes * steps_of_a_pass)


def training_steps(batches: Sequence[Batch], weights: Sequence[torch.Tensor]) -> list[TrainingStep]:
    """The steps of one pass over the batches.

    Batches are sorted by the length of their texts; here they come in the order of their digests.

    Args:
        batches: All calibration texts, as the refit has them.
        weights: What each of their tokens counts, in any unit; see `token_weights`.
    """
    groups: list[list[int]] = []
    tokens = STEP_TOKENS
    for place in sorted(range(len(batches)), key=lambda place: _digest(batches[place])):
        if tokens + batches[place].num_tokens > STEP_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append(place)
        tokens += batches[place].num_tokens
    return [_step(group, batches, weights) for group in groups]


def _step(places: Sequence[int], batches: Sequence[Batch], weights: Sequence[torch.Tensor]) -> TrainingStep:
    own = [weights[place] for place in places]
    total = sum(float(part.double().sum()) for part in own)
    return TrainingStep(
        tuple(places), tuple(batches[place] for place in places), tuple((part / total).float() for part in own)
    )


def _digest(batch: Batch) -> bytes:
    return hashlib.sha256(batch.input_ids.numpy().tobytes()).digest()
