"""What a layer keeps is the best that fits, against every set that could be kept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from micro import micro_config

from seap_export.families import ModelSpec, model_spec
from seap_export.plan.choice import LayerChoices, least_weights
from seap_export.plan.plan import LayerPlan
from seap_export.scores import LayerScores

HIDDEN, HEAD_DIM = 24, 4
#: Query heads and key/value heads.
ATTENTION = {"mha": (4, 4), "gqa": (6, 3), "gqa-wide": (6, 2), "mqa": (4, 1)}
#: How much a head's channel is worth against a neuron.
HEAD_WORTH = {"alike": 1.0, "heads matter": 1000.0, "neurons matter": 0.001}
FRACTIONS = (0.001, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.999)


def layer_spec(attention: str, neurons: int = 13) -> ModelSpec:
    heads, groups = ATTENTION[attention]
    return model_spec(
        micro_config(
            model_type="llama",
            hidden_size=HIDDEN,
            head_dim=HEAD_DIM,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            intermediate_size=neurons,
        )
    )


def random_scores(spec: ModelSpec, head_worth: float = 1.0, seed: int = 0) -> LayerScores:
    generator = torch.Generator().manual_seed(seed)
    own = spec.layers[0]
    heads = torch.rand(own.num_attention_heads, generator=generator, dtype=torch.float64)
    neurons = torch.rand(own.intermediate_size, generator=generator, dtype=torch.float64)
    return LayerScores(heads=head_worth * heads, neurons=neurons)


def attention_sets(spec: ModelSpec) -> Iterator[tuple[tuple[int, ...], int]]:
    """Every set of query heads that leaves each kept group as many as the others, and its number of groups."""
    own = spec.layers[0]
    for groups in range(1, own.num_key_value_heads + 1):
        for kept in itertools.combinations(range(own.num_key_value_heads), groups):
            for heads in range(1, own.heads_per_group + 1):
                members = [
                    itertools.combinations(range(g * own.heads_per_group, (g + 1) * own.heads_per_group), heads)
                    for g in kept
                ]
                for chosen in itertools.product(*members):
                    yield tuple(itertools.chain(*chosen)), groups


def kept_score(heads: tuple[int, ...], neurons: tuple[int, ...], scores: LayerScores) -> float:
    """The scores of all channels kept; a head's score is the mean of its channels'."""
    return float(HEAD_DIM * scores.heads[list(heads)].sum() + scores.neurons[list(neurons)].sum())


def kept_weights(heads: int, groups: int, neurons: int) -> int:
    """q and o of each head, k and v of each group, gate, up and down of each neuron."""
    return HIDDEN * (2 * HEAD_DIM * heads + 2 * HEAD_DIM * groups + 3 * neurons)


def best_that_fits(spec: ModelSpec, scores: LayerScores, align: int, budget: float) -> float:
    """The highest kept score of any set of at most `budget` weights, by trying them all."""
    best_neurons = sorted(range(len(scores.neurons)), key=lambda neuron: -float(scores.neurons[neuron]))
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
    scores = random_scores(spec, head_worth)
    choices = LayerChoices(spec, 0, scores, align)
    for fraction in FRACTIONS:
        budget = fraction * choices.total_weights
        plan, _ = choices.best(budget)
        kept = kept_score(plan.heads, plan.neurons, scores)
        assert kept >= best_that_fits(spec, scores, align, budget) - 1e-9, fraction


@pytest.mark.parametrize("align", [1, 4])
@pytest.mark.parametrize("head_worth", HEAD_WORTH.values(), ids=HEAD_WORTH)
@pytest.mark.parametrize("attention", ATTENTION)
def test_the_budget_is_kept_within_one_step_of_neurons(attention: str, head_worth: float, align: int) -> None:
    spec = layer_spec(attention)
    choices = LayerChoices(spec, 0, random_scores(spec, head_worth), align)
    for fraction in FRACTIONS:
        budget = fraction * choices.total_weights
        _, weights = choices.best(budget)
        assert weights <= max(budget + 3 * HIDDEN * align, least_weights(spec, 0, align)), fraction


@pytest.mark.parametrize("attention", ATTENTION)
def test_the_weights_told_are_those_of_the_plan(attention: str) -> None:
    spec = layer_spec(attention)
    choices = LayerChoices(spec, 0, random_scores(spec), 4)
    for fraction in (*FRACTIONS, 1.0):
        plan, weights = choices.best(fraction * choices.total_weights)
        assert weights == kept_weights(len(plan.heads), len(plan.kv_groups), len(plan.neurons))
        shrunk = spec.with_layers((plan.spec(spec.layers[0], "none"), *spec.layers[1:]))
        assert weights == shrunk.prunable_weights(0)


@pytest.mark.parametrize("attention", ATTENTION)
def test_every_kept_group_keeps_as_many_of_its_own_heads(attention: str) -> None:
    spec = layer_spec(attention)
    choices = LayerChoices(spec, 0, random_scores(spec), 1)
    for fraction in FRACTIONS:
        plan, _ = choices.best(fraction * choices.total_weights)
        in_group = Counter(head // spec.layers[0].heads_per_group for head in plan.heads)
        assert tuple(sorted(in_group)) == plan.kv_groups
        assert len(set(in_group.values())) == 1


@pytest.mark.parametrize("head_worth", HEAD_WORTH.values(), ids=HEAD_WORTH)
@pytest.mark.parametrize("attention", ATTENTION)
def test_the_whole_budget_keeps_everything(attention: str, head_worth: float) -> None:
    spec = layer_spec(attention)
    own = spec.layers[0]
    choices = LayerChoices(spec, 0, random_scores(spec, head_worth), 4)
    plan, weights = choices.best(choices.total_weights)
    assert plan.heads == tuple(range(own.num_attention_heads))
    assert plan.kv_groups == tuple(range(own.num_key_value_heads))
    assert plan.neurons == tuple(range(own.intermediate_size))
    assert weights == spec.prunable_weights(0)


@pytest.mark.parametrize("head_worth", HEAD_WORTH.values(), ids=HEAD_WORTH)
@pytest.mark.parametrize("attention", ATTENTION)
def test_no_budget_leaves_one_head_and_one_step_of_neurons_never_nothing(attention: str, head_worth: float) -> None:
    spec = layer_spec(attention)
    plan, weights = LayerChoices(spec, 0, random_scores(spec, head_worth), 4).best(0.0)
    assert (len(plan.heads), len(plan.kv_groups), len(plan.neurons)) == (1, 1, 4)
    assert weights == least_weights(spec, 0, 4)


def test_the_smallest_form_keeps_the_best_head_and_the_best_neurons() -> None:
    spec = layer_spec("gqa", neurons=6)
    heads = torch.tensor([1, 2, 1, 9, 3, 3], dtype=torch.float64)
    neurons = torch.tensor([0, 5, 0, 7, 0, 6], dtype=torch.float64)
    plan, _ = LayerChoices(spec, 0, LayerScores(heads, neurons), 2).best(0.0)
    assert plan == LayerPlan(num_heads_per_group=2, kv_groups=(1,), heads=(3,), neurons=(3, 5))


def test_a_group_is_worth_the_heads_it_would_keep_not_all_of_them() -> None:
    """With one head a group, group 0 (its best head 6) goes before group 1 (4 + 4)."""
    spec = layer_spec("gqa", neurons=6)
    heads = torch.tensor([6, 0, 4, 4, 1, 1], dtype=torch.float64)
    choices = LayerChoices(spec, 0, LayerScores(heads, torch.zeros(6, dtype=torch.float64)), 1)
    assert choices.best(kept_weights(1, 1, 1))[0].heads == (0,)
    assert choices.best(kept_weights(2, 1, 1))[0].heads == (2, 3)


def test_neurons_are_a_multiple_of_the_step_where_they_are_cut() -> None:
    spec = layer_spec("gqa", neurons=40)
    choices = LayerChoices(spec, 0, random_scores(spec), 16)
    counts = {len(choices.best(f / 50 * choices.total_weights)[0].neurons) for f in range(51)}
    assert counts == {16, 32, 40}


@pytest.mark.parametrize(("steps", "count"), [(1.6, 8), (2.4, 8), (2.6, 12)])
def test_the_rest_of_the_budget_is_rounded_to_the_nearest_step(steps: float, count: int) -> None:
    spec = layer_spec("gqa", neurons=20)
    heads = torch.zeros(6, dtype=torch.float64)
    choices = LayerChoices(spec, 0, LayerScores(heads, torch.ones(20, dtype=torch.float64)), 4)
    plan, _ = choices.best(kept_weights(1, 1, 0) + 3 * HIDDEN * 4 * steps)
    assert (len(plan.heads), len(plan.neurons)) == (1, count)


def test_a_step_wider_than_the_layer_keeps_all_neurons() -> None:
    spec = layer_spec("gqa", neurons=6)
    plan, weights = LayerChoices(spec, 0, random_scores(spec), 16).best(0.0)
    assert len(plan.neurons) == 6
    assert weights == least_weights(spec, 0, 16)


def test_of_equal_scores_the_first_are_kept() -> None:
    spec = layer_spec("mha", neurons=8)
    scores = LayerScores(torch.ones(4, dtype=torch.float64), torch.ones(8, dtype=torch.float64))
    plan, _ = LayerChoices(spec, 0, scores, 4).best(0.0)
    assert (plan.heads, plan.neurons) == ((0,), (0, 1, 2, 3))
