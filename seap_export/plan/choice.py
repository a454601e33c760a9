"""What one layer keeps within a budget of weights, or at a price."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seap_export.plan.cost import CostModel
from seap_export.plan.options import AttentionOption, LayerOptions
from seap_export.plan.plan import LayerPlan
from seap_export.plan.settings import BALANCES, Balance

__all__ = ["Kept", "LayerChoices", "Selection", "one_layer_nearer"]

#: What a layer keeps, and what it costs.
Kept = tuple[LayerPlan, int]
_WEIGHTS = CostModel("weights")


class Selection(NamedTuple):
    """What a layer keeps: an index into its attention options, and a number of neurons."""

    attention: int
    neurons: int


class LayerChoices:
    """Chooses the best options of one layer within a budget.

    Args:
        options: The ways to shrink the layer.
        align: Neuron counts that are cut are multiples of this, at least one multiple.
        balance: How heads and neurons share a budget. `loss`: the pair with the least loss. `alike`: the same
            fraction of attention and of MLP weights is removed, as nearly as whole heads allow (the paper's way).
    """

    def __init__(self, options: LayerOptions, align: int, balance: Balance = "loss") -> None:
        if align < 1 or balance not in BALANCES:
            raise ValueError(f"align must be positive, balance one of {BALANCES}")
        self.options = options
        self.total_weights = options.shape.total_weights
        neurons = options.shape.mlp.intermediate_size
        steps = np.arange(align, neurons, align)
        #: Numbers of neurons that may be kept, ascending, int64.
        self.counts: npt.NDArray[np.int64] = np.append(steps, neurons)
        self._align = align
        self._balance = balance

    @property
    def whole(self) -> Selection:
        """Everything in the dense layer."""
        return Selection(len(self.options.attention) - 1, int(self.counts[-1]))

    def best(self, budget: float) -> Kept:
        """The plan with the least loss for about `budget` weights, and the weights it keeps."""
        if budget >= self.total_weights:
            return self.kept(self.whole)
        options = self.options.attention
        fitting = [option for option in options if option.weights <= budget] or list(options[:1])
        return self._filled(self._preferred(fitting, budget), budget)

    def nearest(self, budget: float, cost: CostModel = _WEIGHTS) -> Kept:
        """The plan whose cost is nearest to the budget, whatever its loss."""
        costs = self.attention_cost(cost)[:, None] + self.neuron_cost(cost)
        attention, step = np.unravel_index(np.argmin(np.abs(costs - budget)), costs.shape)
        return self.kept(Selection(int(attention), int(self.counts[step])), cost)

    def kept(self, selection: Selection, cost: CostModel = _WEIGHTS) -> Kept:
        """The plan of a selection and its cost."""
        option, shape = self.options.attention[selection.attention], self.options.shape
        attention_cost = cost.attention(shape, len(option.heads), len(option.kv_groups))
        return self.options.plan(option, selection.neurons), attention_cost + selection.neurons * cost.neuron(shape)

    def at_price(self, price: float, sensitivity: tuple[float, float], cost: CostModel) -> Selection:
        """The selection that minimises the sum of each loss times its sensitivity, plus its cost times the price.

        Args:
            price: Price of a unit of cost, in units of loss.
            sensitivity: Importance of a unit of loss in the attention and in the MLP.
            cost: How costs are counted.
        """
        attention = sensitivity[0] * self.attention_loss + price * self.attention_cost(cost)
        neurons = sensitivity[1] * self.neuron_loss + price * self.neuron_cost(cost)
        return Selection(int(np.argmin(attention)), int(self.counts[np.argmin(neurons)]))

    @property
    def attention_loss(self) -> npt.NDArray[np.float64]:
        """Loss of each attention option, float64."""
        return np.array([option.loss for option in self.options.attention])

    @property
    def neuron_loss(self) -> npt.NDArray[np.float64]:
        """Loss at each of `counts`, float64."""
        return self.options.neuron_loss[self.counts]

    def attention_cost(self, cost: CostModel) -> npt.NDArray[np.int64]:
        """Cost of each attention option, int64."""
        options, shape = self.options.attention, self.options.shape
        return np.array([cost.attention(shape, len(option.heads), len(option.kv_groups)) for option in options])

    def neuron_cost(self, cost: CostModel) -> npt.NDArray[np.int64]:
        """Cost at each of `counts`, int64."""
        return self.counts * cost.neuron(self.options.shape)

    def _filled(self, option: AttentionOption, budget: float) -> Kept:
        count = self._neurons_within(budget - option.weights)
        return self.options.plan(option, count), option.weights + count * self.options.shape.neuron_weights

    def _preferred(self, fitting: Sequence[AttentionOption], budget: float) -> AttentionOption:
        """The option that fits and that the balance prefers."""
        if self._balance == "alike":
            whole, fraction = self.options.attention[-1].weights, budget / self.total_weights
            return min(fitting, key=lambda option: (abs(option.weights / whole - fraction), option.loss))
        counts = [self._neurons_within(budget - option.weights) for option in fitting]
        losses = self.options.neuron_loss[counts] + np.array([option.loss for option in fitting])
        return fitting[int(np.argmin(losses))]

    def _neurons_within(self, budget: float) -> int:
        """The multiple of `align` nearest to the budget, at least one multiple, at most all neurons."""
        count = round(budget / self.options.shape.neuron_weights / self._align) * self._align
        return min(max(count, self._align), int(self.counts[-1]))


def one_layer_nearer(
    choices: Sequence[LayerChoices], free: Sequence[bool], kept: list[Kept], wanted: float, cost: CostModel
) -> list[Kept]:
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
