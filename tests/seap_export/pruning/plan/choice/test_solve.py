"""The ratio achieved is the ratio asked for, counted over all layers; the ranking is that of a plain loop."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from support.chosen import JOINT, in_turn
from support.plans import (
    kept_layer,
    random_scores,
    random_sensitivity,
    scored_options,
    scores_of,
    small_spec,
    smollm2_spec,
)
from support.product import BUDGETS, EVEN, CostModel, LayerPlan, Sparsity
from support.variations import VARIATIONS, micro_config

from seap_export.errors import UsageError
from seap_export.model.families import Mamba, ModelSpec, model_spec
from seap_export.pruning.plan.choice.layer import LayerChoices, Planned
from seap_export.pruning.plan.choice.ranking import rank, standardised
from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE, check_ratio, largest_ratio, solve_layers
from seap_export.pruning.plan.choice.uniform import solve_uniform
from seap_export.pruning.plan.sparsity import SPARSITY_KINDS
from seap_export.pruning.plan.sublayers import KeptHeads, KeptNeurons, layer_cost
from seap_export.pruning.scores import LayerScores

Solved = tuple[tuple[LayerPlan, ...], float]
RATIOS = (0.05, 0.2, 0.35, 0.6)


def solve(spec: ModelSpec, ratio: float, sparsity: Sparsity, align: int = 16, balance: Any = "loss") -> Solved:
    """From random scores."""
    scores = random_scores(spec)
    options, sensitivity = scored_options(spec, scores), random_sensitivity(spec)
    return solve_layers(spec, options, ratio, sparsity, align, balance, scores=scores, sensitivity=sensitivity)


def removed(spec: ModelSpec, layers: tuple[LayerPlan, ...], sparsity: Sparsity) -> float:
    """The fraction of the cost that is removed."""
    shrunk = [plan.spec(layer, frozenset()) for plan, layer in zip(layers, spec.layers, strict=True)]
    kept, whole = (
        sum(layer_cost(layer, spec.hidden_size, sparsity.cost) for layer in some) for some in (shrunk, spec.layers)
    )
    return 1.0 - kept / whole


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_the_achieved_ratio_is_the_requested_one(kind: Any, ratio: float) -> None:
    spec, sparsity = smollm2_spec(num_hidden_layers=12), Sparsity(kind, protect_first=2, protect_last=2)
    layers, achieved = solve(spec, ratio, sparsity)
    assert achieved == pytest.approx(removed(spec, layers, sparsity), abs=1e-12)
    assert abs(achieved - ratio) <= RATIO_TOLERANCE
    whole = kept_layer(3, range(3), range(9), range(1536))
    assert layers[:2] == layers[-2:] == (whole,) * 2
    assert whole not in layers[2:-2] or kind in ("adaptive", "global")
    assert solve(spec, 0.0, Sparsity(kind)) == ((whole,) * 12, 0.0)
    scores = [{"o_proj": torch.full((9, 64), ratio), "down_proj": torch.zeros(1536)}] * 12  # all alike
    options, sensitivity = scored_options(spec, scores), np.zeros((12, 2))
    _, achieved = solve_layers(spec, options, 0.3, Sparsity(kind), 16, scores=scores, sensitivity=sensitivity)
    assert abs(achieved - 0.3) <= RATIO_TOLERANCE


def test_the_ratio_is_achieved_on_a_curve_as_steep_as_a_step_and_nothing_is_removed_on_one_of_0() -> None:
    for k, ratio in ((110.0, 0.2), (120.0, 0.05), (-110.0, 0.2)):
        assert abs(solve(smollm2_spec(), ratio, Sparsity(k=k))[1] - ratio) <= RATIO_TOLERANCE
    assert solve(smollm2_spec(num_hidden_layers=4), 0.001, Sparsity(x0=1e9))[1] == 0.0


@pytest.mark.parametrize(
    ("protected", "align", "remedy"),
    [
        (2, 16, "lower the ratio, align, protect_first or protect_last in the recipe"),
        (5, 1, "lower the ratio, protect_first or protect_last in the recipe"),
        (0, 128, "lower the ratio or align in the recipe"),
        (0, 1, "lower the ratio"),
    ],
)
def test_a_ratio_out_of_reach_is_refused_with_the_most_and_what_helps(protected: int, align: int, remedy: str) -> None:
    """All but one head, its key/value head and one step of neurons, in every unprotected layer."""
    spec, sparsity = smollm2_spec(), Sparsity(protect_first=protected, protect_last=protected)
    whole, least = 2 * 9 * 64 + 2 * 3 * 64 + 3 * 1536, 4 * 64 + 3 * align
    most = (30 - 2 * protected) * (whole - least) / (30 * whole)
    check_ratio(spec, most, sparsity, align)
    message = rf"{2 * protected} protected layers and multiples of {align} neurons, at most {most:.3f} .*; {remedy}$"
    with pytest.raises(UsageError, match=message):
        solve(spec, most + 0.01, sparsity, align)


@pytest.mark.parametrize(
    ("ratio", "kind", "align", "balance", "message"),
    [
        *((ratio, "uniform", 16, "loss", r"ratio .* is out of range") for ratio in (-0.1, 1.0, math.nan)),
        (0.2, "uniform", 0, "loss", "align 0 is out of range"),
        (0.2, "adaptive", 16, "loss", "adaptive sparsity needs the sensitivity"),
        (0.2, "global", 16, "loss", "global sparsity ranks the scores"),
        (0.2, "adaptive", 16, "alike", "adaptive sparsity weighs heads against neurons itself"),
        (0.2, "global", 16, "alike", "global sparsity weighs heads against neurons itself"),
    ],
)
def test_what_has_no_meaning_is_refused(ratio: float, kind: Any, align: int, balance: Any, message: str) -> None:
    spec = smollm2_spec(num_hidden_layers=2)
    with pytest.raises(UsageError, match=message):
        solve_layers(spec, scored_options(spec, random_scores(spec)), ratio, Sparsity(kind), align, balance)


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.4, 0.6])
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_coarse_shapes_are_met_as_nearly_as_changing_one_layer_allows(kind: Any, ratio: float) -> None:
    """Two layers with six neuron counts each: the curve alone misses some ratios that a mixed plan meets."""
    spec = model_spec(micro_config(model_type="llama", num_hidden_layers=2, intermediate_size=96))
    layers, achieved = solve(spec, ratio, Sparsity(kind))
    error = abs(achieved - ratio)
    assert achieved == pytest.approx(removed(spec, layers, Sparsity(kind)), abs=1e-12)
    if error > RATIO_TOLERANCE:
        units = itertools.product(range(1, 4), range(1, 3), range(16, 97, 16))
        weights = [96 * (2 * 16 * groups * (heads + 1) + 3 * neurons) for groups, heads, neurons in units]
        for plan, layer in zip(layers, spec.layers, strict=True):
            other = 2 * spec.prunable_weights(0) * (1.0 - achieved)
            other -= layer_cost(plan.spec(layer, frozenset()), spec.hidden_size, CostModel())
            errors = [abs(1.0 - (weight + other) / (2 * spec.prunable_weights(0)) - ratio) for weight in weights]
            assert min(errors) >= error - 1e-12


@pytest.mark.parametrize(("variation", "kind"), in_turn(JOINT, SPARSITY_KINDS))
def test_every_family_comes_as_near_to_the_ratio_as_half_a_step(variation: str, kind: Any) -> None:
    """Micro layers of 80 neurons in steps of 1: what is missed is at most half a neuron of all that there is.

    Or half a group of Mamba-2, which goes whole, where no other layer may lose more in its place.
    """
    spec, sparsity = model_spec(micro_config(**VARIATIONS[variation])), Sparsity(kind)
    total = sum(spec.prunable_weights(layer) for layer in range(3))
    is_curve = kind in ("uniform", "logistic")
    groups = [one.weights(spec.hidden_size) / one.mamba_n_groups for one in spec.all(Mamba) if is_curve]
    step = max([3 * spec.hidden_size, *groups])
    for balance in ("loss", "alike") if is_curve else ("loss",):
        for ratio in (min(ratio, largest_ratio(spec, sparsity, 1)) for ratio in RATIOS):
            layers, achieved = solve(spec, ratio, sparsity, align=1, balance=balance)
            assert achieved == pytest.approx(removed(spec, layers, sparsity), abs=1e-12)
            assert abs(achieved - ratio) <= max(RATIO_TOLERANCE, 0.5 * step / total)
            assert all(plan.fits(layer) for plan, layer in zip(layers, spec.layers, strict=True))


@pytest.mark.parametrize("balance", ["loss", "alike"])
@pytest.mark.parametrize("variation", ["bamba", "falcon_h1", "lfm2", "nemotron_h", "olmo2"])
def test_all_sublayers_of_a_kind_have_one_shape_in_the_uniform_layout(variation: str, balance: Any) -> None:
    """Whatever layers are made of; what cannot be cut stays whole and counts."""
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    options, sensitivity = scored_options(spec, random_scores(spec)), random_sensitivity(spec)
    layers, achieved = solve_uniform(spec, options, 0.2, 1, balance, sensitivity)
    sizes = {(sublayer.kind, tuple(sublayer.sizes.items())) for layer in layers for sublayer in layer.sublayers}
    assert len(sizes) == len({type(one) for one in spec.sublayers})
    assert achieved == pytest.approx(removed(spec, layers, EVEN), abs=1e-12)
    assert achieved == pytest.approx(0.2, abs=RATIO_TOLERANCE)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("context", [64, 8192])
def test_every_budget_is_achieved_and_never_exceeded(budget: Any, context: int) -> None:
    spec, sparsity = smollm2_spec(num_hidden_layers=8), Sparsity("adaptive", budget=budget, context=context)
    for ratio in RATIOS:
        layers, achieved = solve(spec, ratio, sparsity)
        assert achieved == pytest.approx(removed(spec, layers, sparsity), abs=1e-12)
        assert ratio - 1e-12 <= achieved <= ratio + RATIO_TOLERANCE


def test_the_most_that_can_be_removed_depends_on_the_budget() -> None:
    """At a long context nearly all bytes are in the KV cache, of which one group of three has to stay."""
    spec = smollm2_spec()
    sparsity = Sparsity("adaptive", budget="bytes", context=10**6)
    kept = 576 * (4 * 64 + 3 * 16) + 2 * 64 * 10**6
    most = 1.0 - kept / (spec.prunable_weights(0) + 3 * 2 * 64 * 10**6)
    check_ratio(spec, most, sparsity, 16)
    with pytest.raises(UsageError, match=rf"at most {most:.3f} of the bytes can be removed"):
        check_ratio(spec, most + 0.01, sparsity, 16)
    check_ratio(spec, most + 0.01, Sparsity("adaptive"), 16)


def ranked(spec: ModelSpec, scores: list[LayerScores], fraction: float) -> list[Planned]:
    choices = [LayerChoices(option, 1) for option in scored_options(spec, scores)]
    budget = fraction * sum(choice.total_weights for choice in choices)
    return rank(choices, scores, [True] * len(choices), budget)


#: Heads and neurons of a layer.
Units = tuple[tuple[int, ...], tuple[int, ...]]


def standardised_by_hand(scores: LayerScores) -> tuple[list[float], list[float]]:
    """FLAP standardises the channels of the heads, then takes each head's mean."""
    channels = [float(value) for value in scores["o_proj"].flatten()]
    mean, spread = statistics.fmean(channels), statistics.pstdev(channels)
    heads = [
        statistics.fmean((float(value) - mean) / spread for value in scores["o_proj"][head])
        for head in range(len(scores["o_proj"]))
    ]
    neurons = [float(value) for value in scores["down_proj"]]
    mean, spread = statistics.fmean(neurons), statistics.pstdev(neurons)
    return heads, [(value - mean) / spread for value in neurons]


def test_scores_that_are_all_alike_become_0() -> None:
    for value in (0.0, 0.1, 1e9):
        heads, neurons = standardised(scores_of([value] * 6, [value] * 1001))
        assert heads.tolist() == [0.0] * 6
        assert not neurons.any()


def by_hand(spec: ModelSpec, scores: list[LayerScores], budget: float) -> list[Units]:
    """Heads and neurons that are left when the lowest go one by one, at the number nearest to the budget.

    Of layers with one head a group, in steps of 1 neuron; a layer keeps its last head and its last neuron.
    """
    units = []
    for layer, score in enumerate(scores):
        heads, neurons = standardised_by_hand(score)
        units += [(value, layer, "head", index) for index, value in enumerate(heads)]
        units += [(value, layer, "neuron", index) for index, value in enumerate(neurons)]
    left = {unit[1:] for unit in units}
    weights = {"head": 4 * spec.hidden_size * spec.head_dim, "neuron": 3 * spec.hidden_size}
    best, best_gap = set(left), float("inf")
    for unit in [None, *sorted(units)]:
        if unit is not None and sum(other[:2] == unit[1:3] for other in left) > 1:
            left.remove(unit[1:])
        gap = abs(sum(weights[kind] for _, kind, _ in left) - budget)
        if gap < best_gap:
            best, best_gap = set(left), gap
    return [
        tuple(
            tuple(sorted(index for score, what, index in best if (score, what) == (layer, kind))) for kind in weights
        )
        for layer in range(len(scores))
    ]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fraction", [0.15, 0.3, 0.5, 0.8, 0.97])
def test_with_one_head_a_group_it_is_the_plain_loop(fraction: float, seed: int) -> None:
    spec = small_spec(4, 4, 30, layers=3)
    scores = random_scores(spec, 5.0, seed)
    budget = fraction * 3 * spec.prunable_weights(0)
    kept = [(plan[KeptHeads].units, plan[KeptNeurons].units) for plan, _ in ranked(spec, scores, fraction)]
    assert kept == by_hand(spec, scores, budget)


def test_an_uneven_rest_takes_the_nearest_even_shape_that_loses_least() -> None:
    """Head 0 alone ranks lowest, but without it one group would have one head, the others two.

    Each head is one part (q, o) and each group another (k, v): to 8 parts, all 9 are nearer than 6, two by two.
    """
    spec = small_spec(6, 3, 40)
    scores = scores_of([1, 50, 50, 50, 50, 50], torch.linspace(40.0, 60.0, 40))
    plan, _ = ranked(spec, [scores], 1.0 - 4 * 72 / spec.prunable_weights(0))[0]
    assert plan[KeptHeads].units == tuple(range(6))
    assert plan[KeptNeurons].units == tuple(range(4, 40))
    # heads 0, 2 and 4 and their three groups weigh as much as two groups of two heads, which hold more
    spec = small_spec(6, 3, 12)
    scores = scores_of([10, 8, 10, 8, 10, 0], [0.0] + [1.0] * 11)
    plan, weights = ranked(spec, [scores], (6 * 2 * 24 * 4 + 10 * 72) / spec.prunable_weights(0))[0]
    assert (plan[KeptHeads].units, len(plan[KeptNeurons].units)) == ((0, 1, 2, 3), 10)
    assert weights == 6 * 2 * 24 * 4 + 10 * 72
