"""The ratio achieved is the ratio asked for, counted over all layers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from micro import micro_config

from seap_export.errors import UsageError
from seap_export.families import ModelSpec, model_spec
from seap_export.plan.plan import LayerPlan
from seap_export.plan.solve import RATIO_TOLERANCE, check_ratio, solve_layers
from seap_export.plan.sparsity import SPARSITY_KINDS, Sparsity
from seap_export.scores import LayerScores

RATIOS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.6)


def smollm2_spec(**values: Any) -> ModelSpec:
    """SmolLM2-135M's shapes."""
    shape = {
        "num_hidden_layers": 30,
        "hidden_size": 576,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "head_dim": 64,
        "intermediate_size": 1536,
    }
    return model_spec(micro_config(**{"model_type": "llama", **shape, **values}))


def random_scores(spec: ModelSpec, head_worth: float = 1.0) -> list[LayerScores]:
    generator = torch.Generator().manual_seed(0)
    return [
        LayerScores(
            heads=head_worth * torch.rand(own.num_attention_heads, generator=generator, dtype=torch.float64),
            neurons=torch.rand(own.intermediate_size, generator=generator, dtype=torch.float64),
        )
        for own in spec.layers
    ]


def removed(spec: ModelSpec, layers: tuple[LayerPlan, ...]) -> list[float]:
    """The fraction of each layer's prunable weights that is removed."""
    shrunk = spec.with_layers(tuple(plan.spec(own, "none") for plan, own in zip(layers, spec.layers, strict=True)))
    return [1.0 - shrunk.prunable_weights(index) / spec.prunable_weights(index) for index in range(len(layers))]


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_the_achieved_ratio_is_the_requested_one(kind: Any, ratio: float) -> None:
    spec = smollm2_spec()
    layers, achieved = solve_layers(spec, random_scores(spec), ratio, Sparsity(kind), 16)
    by_layer = removed(spec, layers)
    assert achieved == pytest.approx(sum(by_layer) / len(by_layer), abs=1e-12)
    assert abs(achieved - ratio) <= RATIO_TOLERANCE
    assert by_layer[:2] == by_layer[-2:] == [0.0, 0.0]
    assert min(by_layer[2:-2]) > 0.0


@pytest.mark.parametrize("head_worth", [1e-4, 1e4])
@pytest.mark.parametrize("ratio", [0.2, 0.6, 0.75])
def test_the_ratio_is_achieved_however_heads_and_neurons_compare(ratio: float, head_worth: float) -> None:
    spec = smollm2_spec()
    _, achieved = solve_layers(spec, random_scores(spec, head_worth), ratio, Sparsity("uniform"), 16)
    assert abs(achieved - ratio) <= RATIO_TOLERANCE


@pytest.mark.parametrize(("k", "ratio"), [(60.0, 0.2), (110.0, 0.2), (120.0, 0.05), (-110.0, 0.2)])
def test_the_ratio_is_achieved_on_a_curve_as_steep_as_a_step(k: float, ratio: float) -> None:
    spec = smollm2_spec()
    _, achieved = solve_layers(spec, random_scores(spec), ratio, Sparsity(k=k), 16)
    assert abs(achieved - ratio) <= RATIO_TOLERANCE


def test_a_curve_that_is_nowhere_above_0_removes_nothing() -> None:
    spec = smollm2_spec(num_hidden_layers=4)
    assert solve_layers(spec, random_scores(spec), 0.001, Sparsity(x0=1e9), 16)[1] == 0.0


def test_protected_layers_stay_whole_and_count() -> None:
    spec = smollm2_spec(num_hidden_layers=6)
    layers, achieved = solve_layers(
        spec, random_scores(spec), 0.3, Sparsity("uniform", protect_first=2, protect_last=1), 16
    )
    by_layer = removed(spec, layers)
    assert [value > 0.0 for value in by_layer] == [False, False, True, True, True, False]
    assert abs(achieved - 0.3) <= RATIO_TOLERANCE


def test_logistic_sparsity_grows_with_depth_and_uniform_does_not() -> None:
    spec = smollm2_spec(num_hidden_layers=8)
    scores = random_scores(spec)
    logistic, uniform = (
        removed(spec, solve_layers(spec, scores, 0.4, Sparsity(kind, 2.0, 0.5, 0, 0), 16)[0])
        for kind in SPARSITY_KINDS
    )
    step = 16 * 3 * spec.hidden_size / spec.prunable_weights(0)
    assert logistic[-1] - logistic[0] > 0.2
    assert all(later > earlier - step for earlier, later in itertools.pairwise(logistic))
    assert max(uniform) - min(uniform) <= step


@pytest.mark.parametrize("kind", SPARSITY_KINDS)
def test_ratio_0_keeps_everything(kind: Any) -> None:
    spec = smollm2_spec(num_hidden_layers=5, num_key_value_heads=9, intermediate_size=50)
    layers, achieved = solve_layers(spec, random_scores(spec), 0.0, Sparsity(kind), 16)
    assert achieved == 0.0
    whole = LayerPlan(1, tuple(range(9)), tuple(range(9)), tuple(range(50)))
    assert layers == (whole,) * 5


def test_the_same_scores_give_the_same_plan() -> None:
    spec = smollm2_spec(num_hidden_layers=4)
    first, second = (solve_layers(spec, random_scores(spec), 0.3, Sparsity(), 16) for _ in range(2))
    assert first == second


def most_by_hand(protected: int, align: int) -> float:
    """All but one head, its key/value head and one step of neurons, in every unprotected layer."""
    whole = 576 * (2 * 9 * 64 + 2 * 3 * 64 + 3 * 1536)
    least = 576 * (4 * 64 + 3 * align)
    return (30 - protected) * (whole - least) / (30 * whole)


@pytest.mark.parametrize(("protected", "align"), [(2, 16), (5, 128)])
def test_a_ratio_out_of_reach_is_refused_with_the_most_that_can_be_removed(protected: int, align: int) -> None:
    spec = smollm2_spec()
    sparsity = Sparsity(protect_first=protected, protect_last=protected)
    most = most_by_hand(2 * protected, align)
    check_ratio(spec, most, sparsity, align)
    message = rf"{2 * protected} protected layers and --align {align} at most {most:.3f} can be removed"
    with pytest.raises(UsageError, match=message):
        solve_layers(spec, random_scores(spec), most + 0.01, sparsity, align)


@pytest.mark.parametrize("head_worth", [1.0, 1e4])
def test_the_most_that_can_be_removed_is_achieved(head_worth: float) -> None:
    spec = smollm2_spec(num_hidden_layers=4)
    sparsity = Sparsity(protect_first=0, protect_last=0)
    most = 1.0 - (4 * 64 + 3 * 16) / (2 * 9 * 64 + 2 * 3 * 64 + 3 * 1536)
    layers, achieved = solve_layers(spec, random_scores(spec, head_worth), most, sparsity, 16)
    assert achieved == pytest.approx(most, abs=RATIO_TOLERANCE)
    assert {(len(plan.heads), len(plan.neurons)) for plan in layers} == {(1, 16)}


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, math.nan])
def test_a_ratio_that_is_no_fraction_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=r"ratio .* is out of range"):
        check_ratio(smollm2_spec(), ratio, Sparsity(), 16)


@pytest.mark.parametrize("align", [0, -16])
def test_an_alignment_that_is_not_positive_is_refused(align: int) -> None:
    with pytest.raises(UsageError, match=f"align {align} is out of range"):
        check_ratio(smollm2_spec(), 0.2, Sparsity(), align)


@pytest.mark.parametrize("ratio", [0.15, 0.25, 0.4, 0.6])
def test_coarse_shapes_are_met_as_nearly_as_changing_one_layer_allows(ratio: float) -> None:
    """Two layers with six neuron counts each: the curve alone misses some ratios that a mixed plan meets."""
    spec = model_spec(micro_config(model_type="llama", num_hidden_layers=2, intermediate_size=96))
    layers, achieved = solve_layers(spec, random_scores(spec), ratio, Sparsity("uniform"), 16)
    error = abs(achieved - ratio)
    assert achieved == pytest.approx(sum(removed(spec, layers)) / 2, abs=1e-12)
    if error > RATIO_TOLERANCE:
        units = itertools.product(range(1, 4), range(1, 3), range(16, 97, 16))
        weights = [96 * (2 * 16 * groups * (heads + 1) + 3 * neurons) for groups, heads, neurons in units]
        total = 2 * spec.prunable_weights(0)
        for index in range(2):
            other = spec.prunable_weights(1 - index) * (1.0 - removed(spec, layers)[1 - index])
            assert all(abs(1.0 - (own + other) / total - ratio) >= error - 1e-12 for own in weights)
