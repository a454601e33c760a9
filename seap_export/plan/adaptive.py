"""Spends one budget for the whole model where it saves the most error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seap_export.plan.choice import Kept, LayerChoices, Selection
from seap_export.plan.cost import CostModel

__all__ = ["spend"]

#: The lowest price searched, as a fraction of the highest, and the number of halvings: the precision of a float64.
_LOWEST_PRICE = 1e-40
_BISECTIONS = 64


def spend(
    choices: Sequence[LayerChoices],
    free: Sequence[bool],
    budget: float,
    sensitivity: npt.NDArray[np.float64],
    cost: CostModel,
) -> list[Kept]:
    """What every layer keeps, and its cost: the least sum of losses for costs that sum to the budget at most.

    The sum is of each layer's attention loss and MLP loss, each times its sensitivity. At a price for a unit of
    cost, every sublayer is chosen independently, and the choice is the best one for its total cost
    (Everett 1963, "Generalized Lagrange Multiplier Method"). The price is found by bisection; what is left of the
    budget is then spent change by change, each time on the one that saves the most loss for its cost.

    Args:
        choices: The options of each layer.
        free: Layers that may be cut; the others stay whole.
        budget: Cost of all layers at most; where even the smallest forms cost more, they are the answer.
        sensitivity: Importance of a unit of loss in each layer's attention and MLP, float64 [layers, 2].
        cost: How costs are counted.

    Raises:
        ValueError: The sensitivity has another shape, or is not finite, or negative.
    """
    if sensitivity.shape != (len(choices), 2) or not np.isfinite(sensitivity).all() or (sensitivity < 0.0).any():
        raise ValueError("sensitivity must be finite, not negative, and of shape [layers, 2]")
    problem = _Problem(choices, free, sensitivity, cost)
    selections = problem.filled(problem.within(budget), budget)
    return [choice.kept(selection, cost) for choice, selection in zip(choices, selections, strict=True)]


class _Options(NamedTuple):
    """The options of a layer's attention or MLP: their losses times the sensitivity, and their costs."""

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
        self._sensitivity = [(float(attention), float(mlp)) for attention, mlp in sensitivity]
        self._cost = cost
        self._options = [
            (
                _Options(importance[0] * choice.attention_loss, choice.attention_cost(cost)),
                _Options(importance[1] * choice.neuron_loss, choice.neuron_cost(cost)),
            )
            for choice, importance in zip(choices, self._sensitivity, strict=True)
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

    def filled(self, selections: list[Selection], budget: float) -> list[Selection]:
        """Applies changes to the selections, best first, as long as one fits into what is left of the budget."""
        indices = [[selection.attention, self._step(layer, selection)] for layer, selection in enumerate(selections)]
        left = budget - self._total(selections)
        while change := self._best_change(indices, left):
            indices[change.layer][change.sublayer] = change.option
            left -= change.cost
        return [
            Selection(attention, int(choice.counts[step]))
            for choice, (attention, step) in zip(self._choices, indices, strict=True)
        ]

    def _at(self, price: float) -> list[Selection]:
        return [
            choice.at_price(price, importance, self._cost) if free else choice.whole
            for choice, importance, free in zip(self._choices, self._sensitivity, self._free, strict=True)
        ]

    def _total(self, selections: Sequence[Selection]) -> int:
        return sum(
            int(attention.cost[selection.attention] + mlp.cost[self._step(layer, selection)])
            for layer, (selection, (attention, mlp)) in enumerate(zip(selections, self._options, strict=True))
        )

    def _step(self, layer: int, selection: Selection) -> int:
        return int(np.searchsorted(self._choices[layer].counts, selection.neurons))

    def _best_change(self, indices: Sequence[Sequence[int]], left: float) -> _Change | None:
        changes = [
            change
            for layer in range(len(indices))
            for sublayer in (0, 1)
            if (change := self._change(layer, sublayer, indices[layer][sublayer], left))
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
