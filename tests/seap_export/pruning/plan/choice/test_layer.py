"""What a layer keeps is the best that fits, against every set that could be kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.plans import attention_cost, both, random_scores, scores_of, small_spec
from support.product import BUDGETS, CostModel

from seap_export.model.families import Attention, ModelSpec
from seap_export.pruning.plan.choice.layer import LayerChoices, one_layer_nearer
from seap_export.pruning.plan.layer_options import options_from_scores
from seap_export.pruning.plan.settings import Balance
from seap_export.pruning.plan.sublayers import KeptHeads, KeptNeurons, layer_cost, smallest_layer
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
        heads, neurons = plan[KeptHeads], plan[KeptNeurons].neurons
        assert kept_score(heads.heads, neurons, scores) >= best_that_fits(spec, scores, align, budget) - 1e-9, fraction
        assert weights <= max(budget + 3 * HIDDEN * align, least_weights(spec, align)), fraction
        assert weights == kept_weights(len(heads.heads), len(heads.kv_groups), len(neurons))


@pytest.mark.parametrize(
    ("budget", "heads", "neurons"),
    [(0.0, 1, 4), *((384 + 288 * step, 1, n) for step, n in ((1.6, 8), (2.4, 8), (2.6, 12)))],
)
def test_the_rest_is_rounded_to_the_nearest_step_and_of_equal_scores_the_first_are_kept(
    budget: float, heads: int, neurons: int
) -> None:
    spec = layer_spec("gqa", neurons=20)
    choices = choices_of(spec, scores_of([0.0] * 6, [1.0] * 20), 4)
    plan, _ = choices.best(budget)
    assert (plan[KeptHeads].heads, plan[KeptNeurons].neurons) == (tuple(range(heads)), tuple(range(neurons)))


@pytest.mark.parametrize("attention", ATTENTION)
def test_alike_takes_the_attention_nearest_to_the_layer_s_own_fraction(attention: str) -> None:
    spec = layer_spec(attention, neurons=40)
    choices = choices_of(spec, some_scores(spec, 1000.0), 1, "alike")
    heads, groups = ATTENTION[attention]
    whole = kept_weights(heads, groups, 0)
    for fraction in FRACTIONS:
        plan, weights = choices.best(fraction * choices.total_weights)
        kept = kept_weights(len(plan[KeptHeads].heads), len(plan[KeptHeads].kv_groups), 0)
        others = {kept_weights(len(heads), number, 0) for heads, number in attention_sets(spec)}
        fitting = [weight for weight in others if weight <= fraction * choices.total_weights] or [min(others)]
        assert abs(kept / whole - fraction) == min(abs(weight / whole - fraction) for weight in fitting), fraction
        assert weights == kept + kept_weights(0, 0, len(plan[KeptNeurons].neurons))
    if attention == "gqa":  # 2 groups of 2 heads weigh as much as 3 of 1; here those of group 0 hold everything
        choices = choices_of(spec, scores_of([5, 5, 1, 0, 0.5, 0], torch.ones(40)), 1, "alike")
        fraction = kept_weights(4, 2, 0) / whole
        assert choices.best(fraction * choices.total_weights)[0][KeptHeads].heads == (0, 1, 2, 3)
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
            spec, cost, len(plan[KeptHeads].heads), len(plan[KeptHeads].kv_groups)
        ) + 72 * len(plan[KeptNeurons].neurons)
        assert abs(nearest - wanted) == min(abs(other - wanted) for other in costs)


def test_one_free_layer_changes_to_come_nearer_and_never_a_protected_one() -> None:
    spec = layer_spec("gqa", neurons=20)
    choices = [choices_of(spec, some_scores(spec), 4) for _ in range(2)]
    kept = [choice.kept(choice.whole) for choice in choices]
    wanted = sum(weight for _, weight in kept) - 4 * 72
    changed = one_layer_nearer(choices, [False, True], kept, wanted, CostModel())
    assert changed[0] == kept[0]
    assert changed[1][1] == kept[1][1] - 4 * 72
    assert one_layer_nearer(choices, [False, False], kept, wanted, CostModel()) == kept
