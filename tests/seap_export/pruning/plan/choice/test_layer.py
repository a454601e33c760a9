"""What a layer keeps is the best that fits, and layers share a budget where it saves the most, against every way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from support.plans import (
    attention_cost,
    both,
    random_scores,
    random_sensitivity,
    scored_options,
    scores_of,
    small_spec,
)
from support.product import BUDGETS, CostModel, LayerPlan
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import Attention, ModelSpec, model_spec
from seap_export.pruning.plan.choice.adaptive import spend
from seap_export.pruning.plan.choice.layer import LayerChoices, Planned, one_layer_nearer
from seap_export.pruning.plan.layer_options import options_from_scores
from seap_export.pruning.plan.settings import Balance
from seap_export.pruning.plan.sublayers import KeptHeads, KeptNeurons, LayerOptions, layer_cost, smallest_layer
from seap_export.pruning.scores import LayerScores, unit_scores

HIDDEN, HEAD_DIM = 24, 4
#: Query heads and key/value heads.
ATTENTION = {"mha": (4, 4), "gqa": (6, 3), "gqa-wide": (6, 2), "mqa": (4, 1)}
#: How much a head's channel is worth against a neuron.
HEAD_WORTH = {"alike": 1.0, "heads matter": 1000.0, "neurons matter": 0.001}
FRACTIONS = (0.001, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999, 1.0)


def layer_spec(attention: str, neurons: int = 13) -> ModelSpec:
    return small_spec(*ATTENTION[attention], neurons)


def some_scores(spec: ModelSpec, head_worth: float = 1.0) -> LayerScores:
    return random_scores(spec, head_worth)[0]


def choices_of(spec: ModelSpec, scores: LayerScores, align: int, balance: Balance = "loss") -> LayerChoices:
    return LayerChoices(options_from_scores(spec, 0, scores), align, balance)


def least_weights(spec: ModelSpec, align: int) -> int:
    return layer_cost(smallest_layer(spec, spec.layers[0], align), spec.hidden_size, CostModel())


def attention_sets(spec: ModelSpec) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every set of query heads that leaves each kept group as many as the others, and its number of groups."""
    attention = spec.first(Attention)
    for groups in range(1, attention.num_key_value_heads + 1):
        for kept in itertools.combinations(range(attention.num_key_value_heads), groups):
            for heads in range(1, attention.heads_per_group + 1):
                members = [
                    itertools.combinations(
                        range(g * attention.heads_per_group, (g + 1) * attention.heads_per_group), heads
                    )
                    for g in kept
                ]
                for chosen in itertools.product(*members):
                    yield tuple(itertools.chain(*chosen)), groups


def kept_score(heads: tuple[int, ...], neurons: tuple[int, ...], scores: LayerScores) -> float:
    """The scores of all channels kept; a head's score is the mean of its channels'."""
    worth = HEAD_DIM * unit_scores(scores["o_proj"])[list(heads)].sum() + scores["down_proj"][list(neurons)].sum()
    return float(worth)


def kept_weights(heads: int, groups: int, neurons: int) -> int:
    """q and o of each head, k and v of each group, gate, up and down of each neuron."""
    return HIDDEN * (2 * HEAD_DIM * heads + 2 * HEAD_DIM * groups + 3 * neurons)


def best_that_fits(spec: ModelSpec, scores: LayerScores, align: int, budget: float) -> float:
    """The highest kept score of any set of at most `budget` weights, by trying them all."""
    best_neurons = sorted(range(len(scores["down_proj"])), key=lambda neuron: -float(scores["down_proj"][neuron]))
    return max(
        (
            kept_score(heads, tuple(best_neurons[:count]), scores)
            for heads, groups in attention_sets(spec)
            for count in range(align, len(best_neurons) + 1, align)
            if kept_weights(len(heads), groups, count) <= budget
        ),
        default=0.0,
    )


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("head_worth", HEAD_WORTH.values(), ids=HEAD_WORTH)
@pytest.mark.parametrize("attention", ATTENTION)
def test_no_set_that_fits_the_budget_is_worth_more(attention: str, head_worth: float, align: int) -> None:
    spec = layer_spec(attention)
    scores = some_scores(spec, head_worth)
    choices = choices_of(spec, scores, align)
    for fraction in FRACTIONS:
        budget = fraction * choices.total_weights
        plan, weights = choices.best(budget)
        heads, neurons = plan[KeptHeads], plan[KeptNeurons].units
        assert kept_score(heads.units, neurons, scores) >= best_that_fits(spec, scores, align, budget) - 1e-9, fraction
        assert weights <= max(budget + 3 * HIDDEN * align, least_weights(spec, align)), fraction
        assert weights == kept_weights(len(heads.units), len(heads.groups), len(neurons))


@pytest.mark.parametrize(
    ("budget", "heads", "neurons"),
    [(0.0, 1, 4), *((384 + 288 * step, 1, n) for step, n in ((1.6, 8), (2.4, 8), (2.6, 12)))],
)
def test_the_rest_is_rounded_and_of_equal_scores_the_first_are_kept(budget: float, heads: int, neurons: int) -> None:
    spec = layer_spec("gqa", neurons=20)
    choices = choices_of(spec, scores_of([0.0] * 6, [1.0] * 20), 4)
    plan, _ = choices.best(budget)
    assert (plan[KeptHeads].units, plan[KeptNeurons].units) == (tuple(range(heads)), tuple(range(neurons)))


@pytest.mark.parametrize("attention", ATTENTION)
def test_alike_takes_the_attention_nearest_to_the_layer_s_own_fraction(attention: str) -> None:
    spec = layer_spec(attention, neurons=40)
    choices = choices_of(spec, some_scores(spec, 1000.0), 1, "alike")
    heads, groups = ATTENTION[attention]
    whole = kept_weights(heads, groups, 0)
    for fraction in FRACTIONS:
        plan, weights = choices.best(fraction * choices.total_weights)
        kept = kept_weights(len(plan[KeptHeads].units), len(plan[KeptHeads].groups), 0)
        others = {kept_weights(len(heads), number, 0) for heads, number in attention_sets(spec)}
        fitting = [weight for weight in others if weight <= fraction * choices.total_weights] or [min(others)]
        assert abs(kept / whole - fraction) == min(abs(weight / whole - fraction) for weight in fitting), fraction
        assert weights == kept + kept_weights(0, 0, len(plan[KeptNeurons].units))
    if attention == "gqa":  # 2 groups of 2 heads weigh as much as 3 of 1; here those of group 0 hold everything
        choices = choices_of(spec, scores_of([5, 5, 1, 0, 0.5, 0], torch.ones(40)), 1, "alike")
        fraction = kept_weights(4, 2, 0) / whole
        assert choices.best(fraction * choices.total_weights)[0][KeptHeads].units == (0, 1, 2, 3)
    for align, balance in ((0, "loss"), (4, "shares")):
        with pytest.raises(ValueError, match="align must be positive, balance one of"):
            choices_of(spec, some_scores(spec), align, balance)  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("price", [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 10.0])
def test_at_a_price_no_other_selection_is_cheaper(price: float, budget: Any) -> None:
    spec = layer_spec("gqa", neurons=30)
    choices, cost = choices_of(spec, some_scores(spec), 4), CostModel(budget, 50)
    heads, neurons = both(choices.options)

    def bill(attention: int, count: int) -> float:
        kept = heads.sets[attention]
        total = attention_cost(spec, cost, len(kept.units), len(kept.groups)) + count * 3 * HIDDEN
        return 3.0 * float(heads.losses[attention]) + 0.5 * float(neurons.loss_of[count]) + price * total

    attention, step = choices.at_price(price, (3.0, 0.5), cost)
    counts = (4, 8, 12, 16, 20, 24, 28, 30)
    assert tuple(neurons.counts) == counts
    least = min(bill(other, count) for other in range(len(heads.sets)) for count in counts)
    assert bill(attention, counts[step]) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("budget", BUDGETS)
def test_the_nearest_plan_is_the_nearest_of_all(budget: Any) -> None:
    spec = layer_spec("gqa-wide", neurons=20)
    choices, cost = choices_of(spec, some_scores(spec), 8), CostModel(budget, 100)
    costs = [
        attention_cost(spec, cost, len(heads), groups) + count * 72
        for heads, groups in attention_sets(spec)
        for count in (8, 16, 20)
    ]
    for wanted in np.linspace(0.0, 1.1 * layer_cost(spec.layers[0], HIDDEN, cost), 23):
        plan, nearest = choices.nearest(float(wanted), cost)
        assert nearest == attention_cost(
            spec, cost, len(plan[KeptHeads].units), len(plan[KeptHeads].groups)
        ) + 72 * len(plan[KeptNeurons].units)
        assert abs(nearest - wanted) == min(abs(other - wanted) for other in costs)


def test_one_free_layer_changes_to_come_nearer_and_never_a_protected_one() -> None:
    choices = [choices_of(small_spec(6, 3, 20), some_scores(small_spec(6, 3, 20)), 4) for _ in range(2)]
    kept = [choice.kept(choice.whole) for choice in choices]
    wanted = sum(weight for _, weight in kept) - 4 * 72
    changed = one_layer_nearer(choices, [False, True], kept, wanted, CostModel())
    assert (changed[0], changed[1][1]) == (kept[0], kept[1][1] - 4 * 72)
    assert one_layer_nearer(choices, [False, False], kept, wanted, CostModel()) == kept


def test_of_three_sublayers_the_best_selection_is_found() -> None:
    spec = model_spec(micro_config(**VARIATIONS["falcon_h1"]))
    choices, sensitivity = LayerChoices(scored_options(spec, random_scores(spec))[0], 4), (1.0, 2.0, 0.5)
    for fraction in (0.3, 0.5, 0.8):
        budget, price = fraction * choices.total_weights, 1e-3 * fraction
        _, weights = choices.best(budget)
        assert abs(weights - budget) <= 4 * 3 * spec.hidden_size / 2
        chosen = choices.at_price(price, sensitivity, CostModel())
        for weight, option, one in zip(sensitivity, choices.options, chosen, strict=True):
            bills = weight * option.losses + price * option.costs(CostModel())
            assert bills[one] == bills.min()


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
        total += attention * loss + mlp * neurons.loss_of[len(plan[KeptNeurons].units)]
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
    for fraction in (0.35, 0.4, 0.5, 0.65, 0.8, 0.95):
        kept = spend(choices, [True, True], fraction * dense, sensitivity, cost)
        loss = objective([choice.options for choice in choices], [plan for plan, _ in kept], sensitivity)
        weight = sum(each for _, each in kept)
        assert weight <= fraction * dense
        assert (weight, pytest.approx(loss)) in ways
        left_out = any(len(plan[KeptNeurons].units) < 12 for plan, _ in kept)
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
