"""Chooses the options of one layer within a budget of weights, or at a price."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.plan import LayerPlan
from seap_export.pruning.plan.settings import BALANCES, Balance
from seap_export.pruning.plan.sublayers import LayerOptions

#: The plan of a layer, and its cost.
Planned = tuple[LayerPlan, int]
#: For each sublayer of a layer, the index of one of its options.
Selection = tuple[int, ...]
_WEIGHTS = CostModel("weights")


class LayerChoices:
    """Chooses the best options of one layer within a budget."""

    def __init__(self, options: LayerOptions, align: int, balance: Balance = "loss") -> None:
        if align < 1 or balance not in BALANCES:
            raise ValueError(f"align must be positive, balance one of {BALANCES}")
        self.options = tuple(sublayer.aligned(align) for sublayer in options)
        self.losses = tuple(sublayer.losses for sublayer in self.options)
        self._costs: dict[CostModel, tuple[npt.NDArray[np.int64], ...]] = {}
        self._balance = balance
        #: The sublayer that takes what the others leave of a budget: the last one that can be cut.
        self._last = max((i for i, losses in enumerate(self.losses) if len(losses) > 1), default=0)

    def costs(self, cost: CostModel = _WEIGHTS) -> tuple[npt.NDArray[np.int64], ...]:
        """The cost of each option of each sublayer, int64."""
        if cost not in self._costs:
            self._costs[cost] = tuple(sublayer.costs(cost) for sublayer in self.options)
        return self._costs[cost]

    @property
    def whole(self) -> Selection:
        return tuple(len(losses) - 1 for losses in self.losses)

    @property
    def total_weights(self) -> int:
        """Number of weights in the projections of the dense layer."""
        return sum(int(costs[-1]) for costs in self.costs())

    def best(self, budget: float) -> Planned:
        """The plan with the least loss for about `budget` weights, and the weights it keeps.

        The last sublayer takes what each selection of the others leaves of the budget.
        """
        if budget >= self.total_weights:
            return self.kept(self.whole)
        others = [costs for index, costs in enumerate(self.costs()) if index != self._last]
        losses = sums([losses_of for index, losses_of in enumerate(self.losses) if index != self._last])
        weights = sums(others)
        fitting = np.flatnonzero(weights <= budget)
        fitting = fitting if len(fitting) else np.array([0])
        filled = self.options[self._last].nearest((budget - weights).ravel())
        if self._balance == "alike":
            fraction = budget / self.total_weights
            distances = sums([np.abs(costs / costs[-1] - fraction) for costs in others])
            best = fitting[np.lexsort((losses.ravel()[fitting], distances.ravel()[fitting]))[0]]
        else:
            best = fitting[np.argmin(self.losses[self._last][filled[fitting]] + losses.ravel()[fitting])]
        selection = [int(option) for option in np.unravel_index(best, weights.shape)]
        return self.kept((*selection[: self._last], int(filled[best]), *selection[self._last :]))

    def nearest(self, budget: float, cost: CostModel = _WEIGHTS) -> Planned:
        """The plan whose cost is nearest to the budget, whatever its loss."""
        costs = sums(self.costs(cost))
        nearest = np.unravel_index(np.argmin(np.abs(costs - budget)), costs.shape)
        return self.kept(tuple(int(option) for option in nearest), cost)

    def kept(self, selection: Selection, cost: CostModel = _WEIGHTS) -> Planned:
        """The plan of a selection and its cost."""
        plan = LayerPlan(
            tuple(sublayer.kept(option) for sublayer, option in zip(self.options, selection, strict=True))
        )
        return plan, self.cost(selection, cost)

    def cost(self, selection: Selection, cost: CostModel = _WEIGHTS) -> int:
        return sum(int(costs[option]) for costs, option in zip(self.costs(cost), selection, strict=True))

    def at_price(self, price: float, sensitivity: Sequence[float], cost: CostModel) -> Selection:
        """The selection that minimises the sum of each loss times its sensitivity, plus its cost times the price."""
        parts = zip(self.losses, self.costs(cost), sensitivity, strict=True)
        return tuple(int(np.argmin(weight * losses + price * costs)) for losses, costs, weight in parts)


def sums(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The sum of one value of each part for every choice of one of each; an axis for each part."""
    return reduce(np.add.outer, parts) if parts else np.zeros(())


def one_layer_nearer(
    choices: Sequence[LayerChoices], free: Sequence[bool], kept: list[Planned], wanted: float, cost: CostModel
) -> list[Planned]:
    """Changes the one free layer that brings the sum of costs nearest to `wanted`, for models with coarse shapes."""
    gap = wanted - sum(layer_cost for _, layer_cost in kept)
    best, best_gap = kept, abs(gap)
    for index, choice in enumerate(choices):
        if free[index]:
            changed = choice.nearest(kept[index][1] + gap, cost)
            left = abs(gap - changed[1] + kept[index][1])
            if left < best_gap:
                best, best_gap = [*kept[:index], changed, *kept[index + 1 :]], left
    return best
