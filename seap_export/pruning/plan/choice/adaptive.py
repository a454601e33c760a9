"""Spends one budget for the whole model where it saves the most error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seap_export.pruning.plan.choice.layer import LayerChoices, Planned, Selection
from seap_export.pruning.plan.cost import CostModel

#: The lowest price searched, as a fraction of the highest, and the number of halvings: the precision of a float64.
_LOWEST_PRICE = 1e-40
_BISECTIONS = 64


def check_sensitivity(sensitivity: npt.NDArray[np.float64], sublayers: Sequence[int]) -> None:
    """Raises `ValueError` unless it is finite, not negative and float64 [layers, most sublayers of a layer]."""
    shape = len(sublayers), max(sublayers)
    if sensitivity.shape != shape or not np.isfinite(sensitivity).all() or (sensitivity < 0.0).any():
        raise ValueError("sensitivity must be finite, not negative, and of shape [layers, sublayers]")


def spend(
    choices: Sequence[LayerChoices],
    free: Sequence[bool],
    budget: float,
    sensitivity: npt.NDArray[np.float64],
    cost: CostModel,
) -> list[Planned]:
    """The plan of every layer and its cost: the least sum of losses for costs that sum to the budget at most.

    The sum is of the losses of all sublayers, each times its sensitivity. At a price for a unit of cost, every
    sublayer is chosen independently, and the choice is the best one for its total cost
    (Everett 1963, "Generalized Lagrange Multiplier Method"). The price is found by bisection; what is left of the
    budget is then spent change by change, each time on the one that saves the most loss for its cost.

    Args:
        free: Layers that may be cut; the others stay whole.
        budget: Cost of all layers at most; where even the smallest forms cost more, they are the answer.
        sensitivity: Importance of a unit of loss in each sublayer, float64 [layers, sublayers]; a layer with fewer
            sublayers than others has the first values of its row.

    Raises:
        ValueError: The sensitivity has another shape, or is not finite, or negative.
    """
    check_sensitivity(sensitivity, [len(choice.options) for choice in choices])
    problem = _Problem(choices, free, sensitivity, cost)
    selections = problem.filled(problem.within(budget), budget)
    return [choice.kept(selection, cost) for choice, selection in zip(choices, selections, strict=True)]


class _Options(NamedTuple):
    """The options of a sublayer: their losses times the sensitivity, and their costs."""

    loss: npt.NDArray[np.float64]
    cost: npt.NDArray[np.int64]


class _Change(NamedTuple):
    """A change of a sublayer to another of its options: loss saved for a unit of cost, and the cost."""

    rate: float
    cost: int
    layer: int
    sublayer: int
    option: int


class _Problem:
    """The choice of one option for each sublayer of each layer."""

    def __init__(
        self,
        choices: Sequence[LayerChoices],
        free: Sequence[bool],
        sensitivity: npt.NDArray[np.float64],
        cost: CostModel,
    ) -> None:
        self._choices = choices
        self._free = free
        self._sensitivity = [
            row[: len(choice.options)] for choice, row in zip(choices, sensitivity.tolist(), strict=True)
        ]
        self._cost = cost
        self._options = [
            [
                _Options(weight * losses, costs)
                for weight, losses, costs in zip(weights, choice.losses, choice.costs(cost), strict=True)
            ]
            for choice, weights in zip(choices, self._sensitivity, strict=True)
        ]

    def within(self, budget: float) -> list[Selection]:
        """The selections at the lowest price at which they cost no more than the budget."""
        # Costs are whole numbers: at this price no saving of loss is worth a unit of cost.
        most = 2.0 * max(float(options.loss.max()) for layer in self._options for options in layer)
        low, high = most * _LOWEST_PRICE, most
        for _ in range(_BISECTIONS if most > 0.0 else 0):
            price = math.exp((math.log(low) + math.log(high)) / 2) if low > 0.0 else high / 2
            low, high = (low, price) if self._total(self._at(price)) <= budget else (price, high)
        return self._at(high)

    def filled(self, selections: Sequence[Selection], budget: float) -> list[Selection]:
        """Applies changes to the selections, best first, as long as one fits into what is left of the budget."""
        chosen = [list(selection) for selection in selections]
        left = budget - self._total(selections)
        while change := self._best_change(chosen, left):
            chosen[change.layer][change.sublayer] = change.option
            left -= change.cost
        return [tuple(selection) for selection in chosen]

    def _at(self, price: float) -> list[Selection]:
        return [
            choice.at_price(price, weights, self._cost) if free else choice.whole
            for choice, weights, free in zip(self._choices, self._sensitivity, self._free, strict=True)
        ]

    def _total(self, selections: Sequence[Selection]) -> int:
        return sum(
            choice.cost(selection, self._cost) for choice, selection in zip(self._choices, selections, strict=True)
        )

    def _best_change(self, chosen: Sequence[Sequence[int]], left: float) -> _Change | None:
        changes = [
            change
            for layer, selection in enumerate(chosen)
            for sublayer, current in enumerate(selection)
            if (change := self._change(layer, sublayer, current, left))
        ]
        return max(changes, default=None)

    def _change(self, layer: int, sublayer: int, current: int, left: float) -> _Change | None:
        """The change of one sublayer that saves the most for its cost; the largest of equal ones."""
        loss, cost = self._options[layer][sublayer]
        more, saved = cost - cost[current], loss[current] - loss
        fitting = np.flatnonzero((more > 0) & (more <= left) & (saved >= 0.0))
        if not len(fitting):
            return None
        rates = saved[fitting] / more[fitting]
        best = fitting[np.lexsort((more[fitting], rates))[-1]]
        return _Change(float(saved[best] / more[best]), int(more[best]), layer, sublayer, int(best))
