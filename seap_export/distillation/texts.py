"""The texts of each training step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from seap_export.layers.batches import Batch, length_buckets, token_weights
from seap_export.layers.compute import Compute

__all__ = ["STEP_TOKENS", "TrainingStep", "number_of_steps", "training_steps"]

#: Tokens of a training step.
STEP_TOKENS = 2048


@dataclass(frozen=True)
class TrainingStep:
    """The texts whose gradients are added up before the weights change.

    Attributes:
        places: Indices of its batches among those of all steps.
        batches: Its batches.
        weights: What each real token counts, float32 [tokens] for each batch; they sum to 1 over the step.
    """

    places: range
    batches: tuple[Batch, ...]
    weights: tuple[torch.Tensor, ...]


def number_of_steps(passes: float, steps_of_a_pass: int) -> int:
    """Training steps in a number of passes over the texts, which may be a fraction."""
    return math.ceil(passes * steps_of_a_pass)


def training_steps(texts: Iterable[tuple[Sequence[int], float]], compute: Compute) -> list[TrainingStep]:
    """The steps of one pass over the texts.

    Texts are in the order of their digests, so that the steps do not depend on the order in which they are given, and
    so that those of several tasks are mixed.

    Args:
        texts: Token ids of each text, and the probability of each of its tokens; see `Mixture.token_ids`.
        compute: How many positions a batch may have.
    """
    groups: list[list[tuple[Sequence[int], float]]] = []
    tokens = STEP_TOKENS
    for ids, weight in sorted(texts, key=lambda text: _digest(text[0])):
        if tokens + len(ids) > STEP_TOKENS:
            groups.append([])
            tokens = 0
        groups[-1].append((ids, weight))
        tokens += len(ids)
    steps, start = [], 0
    for group in groups:
        batches = length_buckets([ids for ids, _ in group], compute.batch_tokens, compute.device)
        weights = token_weights(batches, group)
        total = sum(float(own.double().sum()) for own in weights)
        places = range(start, start + len(batches))
        steps.append(TrainingStep(places, tuple(batches), tuple(own / total for own in weights)))
        start = places.stop
    return steps


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.sha256(repr(list(ids)).encode()).digest()
