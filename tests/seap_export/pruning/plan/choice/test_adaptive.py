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
from seap_export.pruning.plan.choice.layer import LayerChoices
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


def least(ways: Sequence[tuple[int, float]], budget: float) -> float:
    return min(loss for weight, loss in ways if weight <= budget)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("seed", range(6))
def test_the_loss_is_the_least_within_the_granularity(seed: int, budget: Any) -> None:
    """Not better than the best way within the budget, nor worse than the best for one step of attention less."""
    spec, choices, sensitivity = tiny(seed)
    cost = CostModel(budget, 20)
    ways = all_ways(choices, sensitivity, cost)
    dense = max(weight for weight, _ in ways)
    step = attention_cost(spec, cost, 4, 2) - attention_cost(spec, cost, 1, 1)
    for fraction in FRACTIONS:
        kept = spend(choices, [True, True], fraction * dense, sensitivity, cost)
        loss = objective([choice.options for choice in choices], [plan for plan, _ in kept], sensitivity)
        weight = sum(each for _, each in kept)
        assert weight <= fraction * dense
        assert (weight, pytest.approx(loss)) in ways
        left_out = any(len(plan[KeptNeurons].neurons) < 12 for plan, _ in kept)
        assert not left_out or fraction * dense - weight < 3 * 3 * 24
        assert loss >= least(ways, weight) - 1e-9
        if fraction * dense - step >= min(each for each, _ in ways):
            assert loss <= least(ways, fraction * dense - step) + 1e-9


def test_layers_that_are_not_free_stay_whole_and_are_paid_for() -> None:
    _, choices, sensitivity = tiny(0)
    budget = 0.7 * sum(choice.total_weights for choice in choices)
    kept = spend(choices, [False, True], budget, sensitivity, CostModel())
    assert kept[0] == choices[0].kept(choices[0].whole)
    assert sum(weight for _, weight in kept) <= budget


@pytest.mark.parametrize("scale", [1e-250, 1e-12, 1e12, 1e200])
def test_the_unit_of_the_sensitivity_does_not_matter(scale: float) -> None:
    _, choices, sensitivity = tiny(1)
    budget = 0.6 * sum(choice.total_weights for choice in choices)
    plain = spend(choices, [True, True], budget, sensitivity, CostModel())
    assert spend(choices, [True, True], budget, scale * sensitivity, CostModel()) == plain


def test_without_any_loss_the_budget_is_spent_all_the_same() -> None:
    _, choices, _ = tiny(0)
    budget = 0.6 * sum(choice.total_weights for choice in choices)
    kept = spend(choices, [True, True], budget, np.zeros((2, 2)), CostModel())
    assert budget - 3 * 72 < sum(weight for _, weight in kept) <= budget


@pytest.mark.parametrize(
    "sensitivity",
    [np.ones((3, 2)), np.ones(2), np.full((2, 2), -1.0), np.full((2, 2), np.nan), np.full((2, 2), np.inf)],
)
def test_a_sensitivity_without_meaning_is_refused(sensitivity: np.ndarray) -> None:
    _, choices, _ = tiny(0)
    with pytest.raises(ValueError, match="sensitivity must be finite"):
        spend(choices, [True, True], 1e4, sensitivity, CostModel())
