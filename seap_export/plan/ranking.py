"""One ranking of all heads and neurons of the model (FLAP's adaptive structure search)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from seap_export.plan.choice import Kept, LayerChoices, Selection
from seap_export.scores import LayerScores

__all__ = ["rank", "standardised"]


def standardised(scores: LayerScores) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores of a layer's heads and of its neurons that are comparable across layers: (s - mean) / std.

    As in FLAP (arXiv 2312.11983, section 3.3, and its code) the channels of the heads are standardised among
    themselves and a head's score is the mean of its channels'. Scores that are all alike become 0.

    Returns:
        Float64 [num_attention_heads] and [intermediate_size].
    """
    return _standardised(scores.head_channels).mean(1).numpy(), _standardised(scores.neurons).numpy()


def _standardised(scores: torch.Tensor) -> torch.Tensor:
    centred = scores - scores.mean()
    spread = centred.square().mean().sqrt()
    # A difference that is only the rounding of the mean is not a spread.
    return centred / spread if spread > 1e-12 * scores.abs().max() else torch.zeros_like(scores)


def rank(
    choices: Sequence[LayerChoices], scores: Sequence[LayerScores], free: Sequence[bool], budget: float
) -> list[Kept]:
    """What every layer keeps when the lowest heads and neurons of one ranking are removed, and its weights.

    The number removed is the one whose weights come nearest to the budget. The ranking decides how much a layer
    keeps, and its options decide which. Attention keeps the option whose weights are nearest to those of the heads
    that ranked high enough (queries and output of each, keys and values of each KV group that has one of them),
    with the least loss among equal ones. The MLP keeps the nearest allowed number of neurons.

    Args:
        choices: The options of each layer.
        scores: The scores of each layer, not standardised.
        free: Layers that may be cut; the others stay whole.
        budget: Prunable weights of all layers.
    """
    ranking = _Ranking(choices, scores, free)
    low, high = 0, ranking.size
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ranking.weights(middle) <= budget else (middle + 1, high)
    removed = min((max(low - 1, 0), low), key=lambda number: abs(ranking.weights(number) - budget))
    return ranking.kept(removed)


class _Ranking:
    """Positions of heads and neurons in the ranking, lowest first; equal ones in the order of the layers."""

    def __init__(self, choices: Sequence[LayerChoices], scores: Sequence[LayerScores], free: Sequence[bool]) -> None:
        self._choices = choices
        parts = [
            part for layer_scores, cut in zip(scores, free, strict=True) if cut for part in standardised(layer_scores)
        ]
        order = np.argsort(np.concatenate(parts), kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        pieces = iter(np.split(places, np.cumsum([len(part) for part in parts])[:-1]))
        #: Positions of the heads and of the neurons of every free layer.
        self._places = [(next(pieces), next(pieces)) if cut else None for cut in free]
        self.size = len(order)

    def kept(self, removed: int) -> list[Kept]:
        """What is kept when this many of the lowest are removed."""
        return [
            choice.kept(selection) for choice, selection in zip(self._choices, self._selections(removed), strict=True)
        ]

    def weights(self, removed: int) -> int:
        """The weights of what is kept when this many of the lowest are removed."""
        total = 0
        for choice, selection in zip(self._choices, self._selections(removed), strict=True):
            attention = choice.options.attention[selection.attention].weights
            total += attention + selection.neurons * choice.options.shape.neuron_weights
        return total

    def _selections(self, removed: int) -> list[Selection]:
        return [
            choice.whole
            if places is None
            else _nearest(choice, places[0] >= removed, int((places[1] >= removed).sum()))
            for choice, places in zip(self._choices, self._places, strict=True)
        ]


def _nearest(choice: LayerChoices, heads: npt.NDArray[np.bool_], neurons: int) -> Selection:
    """The allowed selection nearest to heads, given as a mask over all, and a number of neurons."""
    shape = choice.options.shape
    groups = heads.reshape(shape.attention.num_key_value_heads, -1).any(1)
    wanted = shape.attention_weights(int(heads.sum()), int(groups.sum()))
    distance = [(abs(option.weights - wanted), option.loss) for option in choice.options.attention]
    count = choice.counts[np.argmin(np.abs(choice.counts - neurons))]
    return Selection(min(range(len(distance)), key=distance.__getitem__), int(count))
