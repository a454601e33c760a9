"""Chooses the next token from logits: the most likely one or a random one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token.

    Attributes:
        temperature: Divides the logits; 0: always the most likely token.
        top_k: Sample only from this many of the most likely tokens; None: from all.
        top_p: Then keep only the most likely tokens whose probabilities add up to at least this.
        seed: Random seed. The tokens drawn for a row depend on the seed and the row's prompt, not on the batch.
        min_p: Then keep only tokens that are at least this fraction as likely as the most likely one; 0: all.
        repetition_penalty: Makes tokens of the prompt and of the text so far less likely, before all else: their
            logits are divided by this where they are above 0, and multiplied where they are below; 1: they stay.

    Source of `min_p`: https://arxiv.org/abs/2407.01082; of the penalty: https://arxiv.org/abs/1909.05858, section 4.1.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Raises `UsageError` if a value is out of range or has no effect."""
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"temperature {self.temperature:g} is out of range; give 0 to 100")
        if self.top_k is not None and self.top_k < 1:
            raise UsageError(f"top-k {self.top_k} is out of range; give at least 1")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p {self.top_p:g} is out of range; give more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min-p {self.min_p:g} is out of range; give 0 to 1")
        if not 0.01 <= self.repetition_penalty <= 100:
            raise UsageError(f"repetition penalty {self.repetition_penalty:g} is out of range; give 0.01 to 100")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is out of range; give 0 or more")
        if self.is_greedy and (self.top_k is not None or self.top_p < 1 or self.min_p > 0):
            raise UsageError("top-k, top-p and min-p have no effect at temperature 0; set a temperature above 0")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is always chosen."""
        return self.temperature == 0


#: Always choose the most likely token.
GREEDY = Sampling()


class Sampler:
    """Chooses the tokens of one row."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Seeds the random numbers with the seed and the prompt's token ids."""
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64([sampling.seed, *prompt]))
        self._seen = dict.fromkeys(prompt)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Chooses a token, given finite logits [vocabulary]; greedy ties go to the smallest token id."""
        if self._sampling.repetition_penalty == 1:
            return self._chosen(logits)
        token = self._chosen(penalised(logits, list(self._seen), self._sampling.repetition_penalty))
        self._seen[token] = None
        return token

    def _chosen(self, logits: NDArray[np.float32]) -> int:
        if self._sampling.is_greedy:
            return int(logits.argmax())
        tokens, probabilities = distribution(logits, self._sampling)
        reached = np.cumsum(probabilities)
        rank = np.searchsorted(reached, self._random.random() * reached[-1], side="right")
        return int(tokens[min(int(rank), len(tokens) - 1)])


def penalised(logits: NDArray[np.float32], tokens: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """A copy of the logits [vocabulary] in which those of these tokens are moved; see `Sampling`."""
    moved, factor = logits.copy(), np.float32(penalty)
    seen = moved[tokens]
    moved[tokens] = np.where(seen < 0, seen * factor, seen / factor)
    return moved


def distribution(logits: NDArray[np.float32], sampling: Sampling) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that can be drawn and their probabilities, which add up to 1.

    Computes softmax(logits / temperature), keeps the `top_k` most likely tokens, renormalises, keeps the `top_p` most
    likely, and of these the ones that `min_p` allows. Ties go to the smaller token ids.
    """
    tokens = np.arange(len(logits))
    if sampling.top_k is not None and sampling.top_k < len(logits):
        tokens = _largest(logits, sampling.top_k)
    below = logits[tokens].astype(np.float64) - float(logits.max())
    with np.errstate(over="ignore"):  # at a tiny temperature; exp(-inf) = 0 is correct
        probabilities = np.exp(below / sampling.temperature)
    probabilities /= probabilities.sum()
    if sampling.top_p < 1:
        # Tokens below this bound add up to less than 1 - p, so none is kept; sorting only the rest is much faster.
        likely = np.flatnonzero(probabilities >= (1 - sampling.top_p) / len(probabilities))
        order = likely[np.argsort(-probabilities[likely], kind="stable")]
        number = int(np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p)) + 1
        order = order[:number]
        tokens, probabilities = tokens[order], probabilities[order] / probabilities[order].sum()
    if sampling.min_p > 0:
        kept = probabilities >= sampling.min_p * probabilities.max()
        tokens, probabilities = tokens[kept], probabilities[kept] / probabilities[kept].sum()
    return tokens, probabilities


def _largest(logits: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """The ids of the largest logits in ascending order; ties go to the smaller ids."""
    smallest = np.partition(logits, -number)[-number]
    above, equal = np.flatnonzero(logits > smallest), np.flatnonzero(logits == smallest)
    return np.sort(np.concatenate([above, equal[: number - len(above)]]))
