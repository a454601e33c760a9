"""The budget is spent where it saves the most, against every way to spend it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from support.plans import attention_cost, both, random_scores, random_sensitivity, scored_options, small_spec
from support.product import BUDGETS, CostModel, LayerPlan

from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.choice.adaptive import spend
from seap_export.pruning.plan.choice.layer import LayerChoices, Planned
from seap_export.pruning.plan.sublayers import KeptHeads, KeptNeurons, LayerOptions

FRACTIONS = (0.35, 0.4, 0.5, 0.65, 0.8, 0.95)


def tiny(seed: int) -> tuple[ModelSpec, list[LayerChoices], np.ndarray]:
    """Two layers of 4 heads in 2 groups and of 12 neurons in steps of 3: 256 ways in all."""
    spec = small_spec(4, 2, 12, layers=2)
    options = scored_options(spec, random_scores(spec, 3.0, seed))
    return spec, [LayerChoices(option, 3) for option in options], random_sensitivity(spec, seed)


def objective(options: Sequence[LayerOptions], layers: Sequence[LayerPlan], sensitivity: np.ndarray) -> float:
    """Sum of the losses of what the plans keep, times the sensitivity."""
    total = 0.0
    for option, plan, (attention, mlp) in zip(options, layers, sensitivity, strict=True):
        heads, neurons = both(option)
        loss = heads.losses[heads.sets.index(plan[KeptHeads])]
        total += attention * loss + mlp * neurons.loss_of[len(plan[KeptNeurons].neurons)]
    return float(total)


def all_ways(choices: Sequence[LayerChoices], sensitivity: np.ndarray, cost: CostModel) -> list[tuple[int, float]]:
    """Cost and objective of every way to shrink both layers."""
    by_layer = []
    for choice, (attention, mlp) in zip(choices, sensitivity, strict=True):
        heads, neurons = both(choice.options)
        costs = heads.costs(cost)
        by_layer.append(
            [
                (int(costs[option]) + count * 3 * 24, attention * heads.losses[option] + mlp * neurons.loss_of[count])
                for option in range(len(heads.sets))
                for count in (3, 6, 9, 12)
            ]
        )
    return [(sum(each for each, _ in way), sum(loss for _, loss in way)) for way in itertools.product(*by_layer)]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(6))
def test_the_loss_is_the_least_within_the_granularity(seed: int, budget: Any) -> None:
    """Not better than the best way within the budget, nor worse than the best for one step of attention less."""
    spec, choices, sensitivity = tiny(seed)
    cost = CostModel(budget, 20)
    ways = all_ways(choices, sensitivity, cost)
    dense = max(weight for weight, _ in ways)

    def least(most: float) -> float:
        return min(loss for weight, loss in ways if weight <= most)

    step = attention_cost(spec, cost, 4, 2) - attention_cost(spec, cost, 1, 1)
    for fraction in FRACTIONS:
        kept = spend(choices, [True, True], fraction * dense, sensitivity, cost)
        loss = objective([choice.options for choice in choices], [plan for plan, _ in kept], sensitivity)
        weight = sum(each for _, each in kept)
        assert weight <= fraction * dense
        assert (weight, pytest.approx(loss)) in ways
        left_out = any(len(plan[KeptNeurons].neurons) < 12 for plan, _ in kept)
        assert not left_out or fraction * dense - weight < 3 * 3 * 24
        assert loss >= least(weight) - 1e-9
        if fraction * dense - step >= min(each for each, _ in ways):
            assert loss <= least(fraction * dense - step) + 1e-9


def test_what_is_not_free_stays_whole_and_the_size_of_the_sensitivity_does_not_matter() -> None:
    _, choices, sensitivity = tiny(1)

    def spent(values: np.ndarray, free: Sequence[bool] = (True, True)) -> tuple[list[Planned], float]:
        """What is kept, and what is left of the budget."""
        budget = 0.7 * sum(choice.total_weights for choice in choices)
        kept = spend(choices, free, budget, values, CostModel())
        return kept, budget - sum(weight for _, weight in kept)

    kept, left = spent(sensitivity, (False, True))
    assert kept[0] == choices[0].kept(choices[0].whole)
    assert left >= 0
    for scale in (1e-250, 1e-12, 1e12, 1e200):
        assert spent(scale * sensitivity) == spent(sensitivity)
    assert 0 <= spent(np.zeros((2, 2)))[1] < 3 * 72
    for refused in (np.ones((3, 2)), np.ones(2), -sensitivity, np.full((2, 2), np.nan), np.full((2, 2), np.inf)):
        with pytest.raises(ValueError, match="sensitivity must be finite"):
            spent(refused)
