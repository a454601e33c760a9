"""Ranks all units of the model in one order, and removes the lowest (FLAP's adaptive structure search)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from seap_export.pruning.plan.choice.layer import LayerChoices, Planned, Selection
from seap_export.pruning.scores import LayerScores, unit_scores


def standardised(scores: LayerScores) -> list[npt.NDArray[np.float64]]:
    """Scores of the units of each sublayer that are comparable across layers: (s - mean) / std.

    As in FLAP (arXiv 2312.11983, section 3.3, and its code) the channels of the heads are standardised among
    themselves and a head's score is the mean of its channels'. Scores that are all alike become 0.

    Returns:
        Float64 [units] for each sublayer.
    """
    return [unit_scores(_standardised(channels)).numpy() for channels in scores.values()]


def _standardised(scores: torch.Tensor) -> torch.Tensor:
    centred = scores - scores.mean()
    spread = centred.square().mean().sqrt()
    # A difference that is only the rounding of the mean is not a spread.
    return centred / spread if spread > 1e-12 * scores.abs().max() else torch.zeros_like(scores)


def rank(
    choices: Sequence[LayerChoices], scores: Sequence[LayerScores], free: Sequence[bool], budget: float
) -> list[Planned]:
    """The plan of every layer, and its weights, when the lowest units of one ranking are removed.

    The number removed is the one whose weights come nearest to the budget. The ranking decides how much a sublayer
    keeps, and its options decide which: attention keeps the option whose weights are nearest to those of the heads
    that ranked high enough (queries and output of each, keys and values of each KV group that has one of them),
    with the least loss among equal ones. The MLP keeps the nearest allowed number of neurons.
    """
    ranking = _Ranking(choices, scores, free)
    low, high = 0, ranking.size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ranking.weights(middle) <= budget else (middle + 1, high)
    removed = min((max(low - 1, 0), low), key=lambda number: abs(ranking.weights(number) - budget))
    return ranking.kept(removed)


class _Ranking:
    """Positions of units in the ranking, lowest first; equal ones in the order of the layers."""

    def __init__(self, choices: Sequence[LayerChoices], scores: Sequence[LayerScores], free: Sequence[bool]) -> None:
        self._choices = choices
        parts = [standardised(layer_scores) if cut else [] for layer_scores, cut in zip(scores, free, strict=True)]
        order = np.argsort(np.concatenate([part for layer in parts for part in layer]), kind="stable")
        ranks = np.empty_like(order)
        ranks[order] = np.arange(len(order))
        pieces = iter(np.split(ranks, np.cumsum([len(part) for layer in parts for part in layer])[:-1]))
        #: Positions of the units of each sublayer of every free layer.
        self._ranks = [[next(pieces) for _ in layer] for layer in parts]
        self.size = len(order)

    def kept(self, removed: int) -> list[Planned]:
        """The plan of every layer, and its weights, when this many of the lowest units are removed."""
        return [
            choice.kept(selection) for choice, selection in zip(self._choices, self._selections(removed), strict=True)
        ]

    def weights(self, removed: int) -> int:
        """The weights of all layers when this many of the lowest units are removed."""
        return sum(
            choice.cost(selection) for choice, selection in zip(self._choices, self._selections(removed), strict=True)
        )

    def _selections(self, removed: int) -> list[Selection]:
        return [
            tuple(option.of_units(rank >= removed) for option, rank in zip(choice.options, ranks, strict=True))
            if ranks
            else choice.whole
            for choice, ranks in zip(self._choices, self._ranks, strict=True)
        ]
