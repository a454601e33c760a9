"""The next token from logits: the most likely one, or one drawn at random."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import UsageError

__all__ = ["GREEDY", "Sampler", "Sampling", "distribution"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: Logits are divided by it; 0: the most likely token, always.
        top_k: Only that many most likely tokens are drawn from; None: all.
        top_p: Of these only the most likely ones whose probabilities, summed from the largest on, first reach it.
        seed: Seed of the draws. A row's draws depend on it and on the row's prompt, and not on the batch.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises `UsageError` if a value is out of range, or changes nothing."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature {self.temperature:g} is out of range; give 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k {self.top_k} is out of range; give at least 1")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p:g} is out of range; give more than 0 and at most 1")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is out of range; give 0 or more")
        if self.is_greedy and (self.top_k is not None or self.top_p < 1):
            raise UsageError("top-k and top-p change nothing at temperature 0; give a temperature, too")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken, always."""
        return self.temperature == 0


#: The most likely token, always.
GREEDY = Sampling()


class Sampler:
    """Chooses the tokens of one row."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Starts the row's draws; they are those of the seed and the prompt's token ids."""
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64([sampling.seed, *prompt]))

    def choose(self, logits: NDArray[np.float32]) -> int:
        """A token for finite logits [vocabulary]; of equally likely ones, the first where none is drawn."""
        if self._sampling.is_greedy:
            return int(logits.argmax())
        tokens, probabilities = distribution(logits, self._sampling)
        reached = np.cumsum(probabilities)
        place = np.searchsorted(reached, self._random.random() * reached[-1], side="right")
        return int(tokens[min(int(place), len(tokens) - 1)])


def distribution(logits: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that can be drawn, and their probabilities, which sum to 1.

    First softmax(logits / temperature), then the `top_k` most likely tokens, then of these, with probabilities that
    sum to 1 again, the `top_p` most likely. Of equally likely tokens, those with the smaller ids are kept.
    """
    tokens = np.arange(len(logits))
    if sampling.top_k is not None and sampling.top_k < len(logits):
        tokens = _largest(logits, sampling.top_k)
    below = logits[tokens].astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):  # at a tiny temperature; exp(-inf) is the right 0
        probabilities = np.exp(below / sampling.temperature)
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        # Tokens below this sum to less than 1 - p, so they never get in; sorting the rest is much faster.
        likely = np.flatnonzero(probabilities >= (1 - sampling.top_p) / len(probabilities))
        order = likely[np.argsort(-probabilities[likely], kind="stable")]
        number = int(np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p)) + 1
        order = order[:number]
        tokens, probabilities = tokens[order], probabilities[order] / probabilities[order].sum()
    return tokens, probabilities


def _largest(logits: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """The ids of the largest logits in ascending order; of equal ones the first."""
    smallest = np.partition(logits, -number)[-number]
    above, equal = np.flatnonzero(logits > smallest), np.flatnonzero(logits == smallest)
    return np.sort(np.concatenate([above, equal[: number - len(above)]]))
