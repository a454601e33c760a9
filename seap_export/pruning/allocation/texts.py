"""The texts that plans are tried on: some that a plan is refitted on, and others that judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.pruning.activations.task_mixture import TaskMixture

#: Tokens that plans are refitted on and judged on, and tokens of a text: few, so that many plans can be tried.
#: docs/research/measurements.md shows that what is found with them holds for more; other numbers were not compared.
FITTED_TOKENS, JUDGED_TOKENS, _LENGTH = 4096, 1536, 256
#: Fraction of a task's tokens that judges where there are few.
_JUDGES = 0.25

#: Token ids of texts, and the probability of each of their tokens.
_Weighted = tuple[tuple[tuple[int, ...], float], ...]


@dataclass(frozen=True)
class TrialTexts:
    """Calibration texts in two parts. In each, a task's tokens have the probability of its weight together."""

    fitted: _Weighted
    judged: _Weighted

    def __post_init__(self) -> None:
        if not self.fitted or not self.judged:
            raise ValueError("both parts need texts")

    @property
    def effective_tokens(self) -> float:
        """Effective sample size of the fitted part (Kish 1965), as in `TaskMixture`."""
        weights = torch.cat([torch.full((len(ids),), weight, dtype=torch.float64) for ids, weight in self.fitted])
        return float(weights.sum().square() / weights.square().sum())

    @property
    def judged_tokens(self) -> int:
        return sum(len(ids) for ids, _ in self.judged)


def draw_texts(statistics: TaskMixture) -> TrialTexts | None:
    """The parts for a task or a mixture; None if a task has a single text.

    Which texts they have follows from the texts alone, not from their order.
    """
    fitted: dict[tuple[int, ...], float] = {}
    judged: dict[tuple[int, ...], float] = {}
    for task, probability in statistics.probabilities.items():
        texts = _in_order(statistics.calibrations[task].token_ids(), taken={**fitted, **judged})
        total = sum(map(len, texts))
        judges = _first(texts, min(JUDGED_TOKENS * probability, _JUDGES * total))
        others = _first(texts[len(judges) :], FITTED_TOKENS * probability)
        if not judges or not others:
            return None
        for part, drawn in ((judged, judges), (fitted, others)):
            part |= dict.fromkeys(drawn, probability / sum(map(len, drawn)))
    return TrialTexts(tuple(fitted.items()), tuple(judged.items()))


def _in_order(texts: Sequence[Sequence[int]], taken: Mapping[tuple[int, ...], float]) -> list[tuple[int, ...]]:
    """Different texts, none of them taken, in the order of their digests."""
    cut = {tuple(ids[:_LENGTH]) for ids in texts} - taken.keys()
    return sorted(cut, key=lambda ids: hashlib.sha256(repr(ids).encode()).digest())


def _first(texts: Sequence[tuple[int, ...]], tokens: float) -> list[tuple[int, ...]]:
    """The first texts, until they have this many tokens."""
    taken: list[tuple[int, ...]] = []
    while len(taken) < len(texts) and sum(map(len, taken)) < tokens:
        taken.append(texts[len(taken)])
    return taken
