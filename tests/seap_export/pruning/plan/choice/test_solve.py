"""The ratio achieved is the ratio asked for, counted over all layers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from support.chosen import JOINT, in_turn
from support.plans import (
    attention_cost,
    kept_layer,
    kept_sizes,
    random_scores,
    random_sensitivity,
    scored_options,
    smollm2_spec,
)
from support.product import BUDGETS, LayerPlan, Sparsity
from support.variations import VARIATIONS, micro_config

from seap_export.errors import UsageError
from seap_export.model.families import DeltaNet, Mamba, Mlp, ModelSpec, model_spec
from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE, check_ratio, largest_ratio, solve_layers
from seap_export.pruning.plan.sparsity import SPARSITY_KINDS
from seap_export.pruning.plan.sublayers import DeltaNetOptions, MambaOptions, layer_cost

RATIOS = (0.05, 0.2, 0.35, 0.6)


def solve(
    spec: ModelSpec, ratio: float, sparsity: Sparsity, align: int = 16, head_worth: float = 1.0
) -> tuple[tuple[LayerPlan, ...], float]:
    """From random scores."""
    scores = random_scores(spec, head_worth)
    options, sensitivity = scored_options(spec, scores), random_sensitivity(spec)
    return solve_layers(spec, options, ratio, sparsity, align, scores=scores, sensitivity=sensitivity)


def removed(spec: ModelSpec, layers: tuple[LayerPlan, ...]) -> list[float]:
    """The fraction of each layer's prunable weights that is removed."""
    shrunk = spec.with_layers(
        tuple(plan.spec(layer, frozenset()) for plan, layer in zip(layers, spec.layers, strict=True))
    )
    return [1.0 - shrunk.prunable_weights(index) / spec.prunable_weights(index) for index in range(len(layers))]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_the_achieved_ratio_is_the_requested_one(kind: Any, ratio: float) -> None:
    spec = smollm2_spec()
    layers, achieved = solve(spec, ratio, Sparsity(kind, protect_first=2, protect_last=2))
    by_layer = removed(spec, layers)
    assert achieved == pytest.approx(sum(by_layer) / len(by_layer), abs=1e-12)
    assert abs(achieved - ratio) <= RATIO_TOLERANCE
    assert by_layer[:2] == by_layer[-2:] == [0.0, 0.0]
    assert min(by_layer[2:-2]) > 0.0 or kind in ("adaptive", "global")


@pytest.mark.parametrize(("k", "ratio"), [(60.0, 0.2), (110.0, 0.2), (120.0, 0.05), (-110.0, 0.2)])
def test_the_ratio_is_achieved_on_a_curve_as_steep_as_a_step(k: float, ratio: float) -> None:
    spec = smollm2_spec()
    _, achieved = solve(spec, ratio, Sparsity(k=k))
    assert abs(achieved - ratio) <= RATIO_TOLERANCE


def test_a_curve_that_is_nowhere_above_0_removes_nothing() -> None:
    spec = smollm2_spec(num_hidden_layers=4)
    assert solve(spec, 0.001, Sparsity(x0=1e9))[1] == 0.0


@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_ratio_0_keeps_everything(kind: Any) -> None:
    spec = smollm2_spec(num_hidden_layers=5, num_key_value_heads=9, intermediate_size=50)
    layers, achieved = solve(spec, 0.0, Sparsity(kind))
    assert achieved == 0.0
    whole = kept_layer(1, range(9), range(9), range(50))
    assert layers == (whole,) * 5


def most_by_hand(protected: int, align: int) -> float:
    """All but one head, its key/value head and one step of neurons, in every unprotected layer."""
    whole = 576 * (2 * 9 * 64 + 2 * 3 * 64 + 3 * 1536)
    least = 576 * (4 * 64 + 3 * align)
    return (30 - protected) * (whole - least) / (30 * whole)


@pytest.mark.parametrize(
    ("protected", "align", "remedy"),
    [
        (2, 16, "lower the ratio, align, protect_first or protect_last in the recipe"),
        (5, 1, "lower the ratio, protect_first or protect_last in the recipe"),
        (0, 128, "lower the ratio or align in the recipe"),
        (0, 1, "lower the ratio"),
    ],
)
def test_a_ratio_out_of_reach_is_refused_with_the_most_that_can_be_removed_and_what_helps(
    protected: int, align: int, remedy: str
) -> None:
    spec = smollm2_spec()
    sparsity = Sparsity(protect_first=protected, protect_last=protected)
    most = most_by_hand(2 * protected, align)
    check_ratio(spec, most, sparsity, align)
    message = rf"{2 * protected} protected layers and multiples of {align} neurons, at most {most:.3f} .*; {remedy}$"
    with pytest.raises(UsageError, match=message):
        solve(spec, most + 0.01, sparsity, align)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, math.nan])
def test_a_ratio_that_is_no_fraction_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"ratio .* is out of range"):
        check_ratio(smollm2_spec(), ratio, Sparsity(), 16)


@pytest.mark.parametrize("align", [0, -16])
def test_an_alignment_that_is_not_positive_is_refused(align: int) -> None:
    with pytest.raises(UsageError, match=f"align {align} is out of range"):
        check_ratio(smollm2_spec(), 0.2, Sparsity(), align)


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.4, 0.6])
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_coarse_shapes_are_met_as_nearly_as_changing_one_layer_allows(kind: Any, ratio: float) -> None:
    """Two layers with six neuron counts each: the curve alone misses some ratios that a mixed plan meets."""
    spec = model_spec(micro_config(model_type="llama", num_hidden_layers=2, intermediate_size=96))
    layers, achieved = solve(spec, ratio, Sparsity(kind))
    error = abs(achieved - ratio)
    assert achieved == pytest.approx(sum(removed(spec, layers)) / 2, abs=1e-12)
    if error > RATIO_TOLERANCE:
        units = itertools.product(range(1, 4), range(1, 3), range(16, 97, 16))
        weights = [96 * (2 * 16 * groups * (heads + 1) + 3 * neurons) for groups, heads, neurons in units]
        total = 2 * spec.prunable_weights(0)
        for index in range(2):
            other = spec.prunable_weights(1 - index) * (1.0 - removed(spec, layers)[1 - index])
            assert all(abs(1.0 - (weight + other) / total - ratio) >= error - 1e-12 for weight in weights)


def achieved_cost(spec: ModelSpec, layers: tuple[LayerPlan, ...], sparsity: Sparsity) -> float:
    """The fraction of the cost that is removed, part by part."""
    neuron = (3 if spec.first(Mlp).is_gated else 2) * spec.hidden_size
    kept = 0
    for index, plan in enumerate(layers):
        kept += plan.sizes.get("intermediate_size", 0) * neuron
        if "conv_dim" in plan.sizes:
            kept += plan.sizes["conv_dim"] * 4 * spec.hidden_size
        kept += 2 * plan.sizes.get("hidden_size_per_layer_input", 0) * spec.hidden_size
        if "linear_num_key_heads" in plan.sizes:
            net = spec.layers[index].changed(**plan.sizes)[DeltaNet]
            kept += DeltaNetOptions.cost_of(net, spec.hidden_size, sparsity.cost)
        if "mamba_n_heads" in plan.sizes:
            mamba = spec.layers[index].changed(**plan.sizes)[Mamba]
            kept += MambaOptions.cost_of(mamba, spec.hidden_size, sparsity.cost)
        if "num_attention_heads" in plan.sizes:
            groups, heads, _ = kept_sizes(plan)
            kept += attention_cost(spec, sparsity.cost, heads, groups, index)
    return 1.0 - kept / sum(layer_cost(layer, spec.hidden_size, sparsity.cost) for layer in spec.layers)


@pytest.mark.parametrize(("variation", "kind"), in_turn(JOINT, SPARSITY_KINDS))
def test_every_family_comes_as_near_to_the_ratio_as_half_a_step(variation: str, kind: Any) -> None:
    """Micro layers of 80 neurons in steps of 1: what is missed is at most half a neuron of all that there is.

    Or half a group of Mamba-2, which goes whole, where no other layer may lose more in its place.
    """
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    total = sum(spec.prunable_weights(layer) for layer in range(3))
    groups = [one.weights(spec.hidden_size) / one.mamba_n_groups for one in spec.all(Mamba) if kind == "uniform"]
    step = max([3 * spec.hidden_size, *groups])
    for ratio in (min(ratio, largest_ratio(spec, Sparsity(kind), 1)) for ratio in RATIOS):
        layers, achieved = solve(spec, ratio, Sparsity(kind), align=1)
        assert achieved == pytest.approx(achieved_cost(spec, layers, Sparsity(kind)), abs=1e-12)
        assert abs(achieved - ratio) <= max(RATIO_TOLERANCE, 0.5 * step / total)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("context", [64, 8192])
def test_every_budget_is_achieved_and_never_exceeded(budget: Any, context: int) -> None:
    spec = smollm2_spec(num_hidden_layers=8)
    sparsity = Sparsity("adaptive", budget=budget, context=context)
    for ratio in RATIOS:
        layers, achieved = solve(spec, ratio, sparsity)
        assert achieved == pytest.approx(achieved_cost(spec, layers, sparsity), abs=1e-12)
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


def test_scores_that_are_all_alike_still_meet_the_ratio() -> None:
    spec = smollm2_spec(num_hidden_layers=4)
    scores = [
        {"o_proj": layer["o_proj"] * 0 + 1, "down_proj": layer["down_proj"] * 0} for layer in random_scores(spec)
    ]
    for kind in SPARSITY_KINDS:
        for value in (0.0, 1.0):
            _, achieved = solve_layers(
                spec,
                scored_options(spec, scores),
                0.3,
                Sparsity(kind),
                16,
                scores=scores,
                sensitivity=np.full((4, 2), value),
            )
            assert abs(achieved - 0.3) <= RATIO_TOLERANCE


@pytest.mark.parametrize(
    ("kind", "balance", "message"),
    [
        ("adaptive", "loss", "adaptive sparsity needs the sensitivity"),
        ("global", "loss", "global sparsity ranks the scores"),
        ("adaptive", "alike", "adaptive sparsity weighs heads against neurons itself"),
        ("global", "alike", "global sparsity weighs heads against neurons itself"),
    ],
)
def test_what_a_kind_of_sparsity_needs_is_asked_for(kind: Any, balance: Any, message: str) -> None:
    spec = smollm2_spec(num_hidden_layers=2)
    with pytest.raises(UsageError, match=message):
        solve_layers(spec, scored_options(spec, random_scores(spec)), 0.2, Sparsity(kind), 16, balance)
