"""What is eliminated first is what a refit for every candidate finds, and losses are those of the refits."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from support.plans import both, random_projection, refitted_loss, small_spec
from support.product import OUTPUTS

from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.elimination import channels as elimination
from seap_export.pruning.plan.elimination import head_sets
from seap_export.pruning.plan.elimination.channels import eliminate_channels
from seap_export.pruning.plan.elimination.refit import removal_losses
from seap_export.pruning.plan.layer_options import options_from_elimination
from seap_export.pruning.plan.sublayers import HeadOptions, NeuronOptions
from seap_export.pruning.plan.sublayers.grouped import KeptGrouped

RIDGE = 0.001
#: So small that all is computed in float64.
SMALL_RIDGE = 1e-6
#: Relative errors of losses.
ROUNDING = {RIDGE: 1e-4, SMALL_RIDGE: 1e-8}


def eliminated_by_hand(weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> tuple[list[int], list[float]]:
    """The channels, last removed first, and the loss for every number kept; every candidate is refitted."""
    left, order = list(range(weight.shape[1])), []
    losses = [0.0]
    while left:
        tried = {
            channel: refitted_loss(weight, covariance, [head for head in left if head != channel], ridge)
            for channel in left
        }
        lowest = min(left, key=tried.__getitem__)
        left.remove(lowest)
        order.append(lowest)
        losses.append(max(tried[lowest], losses[-1]))
    return order[::-1], losses[::-1]


def eliminated(
    spec: ModelSpec,
    heads: tuple[torch.Tensor, torch.Tensor],
    neurons: tuple[torch.Tensor, torch.Tensor],
    ridge: float = RIDGE,
) -> tuple[HeadOptions, NeuronOptions]:
    """Given the weight and the covariance of each output projection."""
    weights, covariances = zip(heads, neurons, strict=True)
    named = (dict(zip(OUTPUTS, parts, strict=True)) for parts in (weights, covariances))
    return both(options_from_elimination(spec, 0, *named, ridge=ridge))


def options_of(
    spec: ModelSpec, seed: int = 0, tokens: int = 60, ridge: float = RIDGE
) -> tuple[HeadOptions, NeuronOptions]:
    o_proj, o_cov, down_proj, down_cov = statistics_of(spec, seed, tokens)
    return eliminated(spec, (o_proj, o_cov.clone()), (down_proj, down_cov.clone()), ridge)


def statistics_of(
    spec: ModelSpec, seed: int = 0, tokens: int = 60
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    attention, mlp = spec.layers[0].sublayers
    heads = random_projection(attention.channels, tokens, spec.hidden_size, seed)
    neurons = random_projection(mlp.channels, tokens, spec.hidden_size, seed + 1)
    return *heads, *neurons


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("tokens", [50, 6])
@pytest.mark.parametrize("ridge", [RIDGE, SMALL_RIDGE])
def test_one_at_a_time_is_the_greedy_loop_of_refits(ridge: float, tokens: int, seed: int) -> None:
    weight, covariance = random_projection(12, tokens, seed=seed)
    order, loss = eliminate_channels(weight, covariance, ridge, 0.0)
    expected_order, expected_loss = eliminated_by_hand(weight, covariance, ridge)
    least = RIDGE * expected_loss[0]  # smaller ones are of channels that others make up for, which go in any order
    assert [index for index, kept in zip(order, expected_loss, strict=False) if kept > least] == [
        index for index, kept in zip(expected_order, expected_loss, strict=False) if kept > least
    ]
    assert loss.tolist() == pytest.approx(expected_loss, rel=ROUNDING[ridge], abs=1e-9 * expected_loss[0])


@pytest.mark.parametrize("ridge", [RIDGE, SMALL_RIDGE])
@pytest.mark.parametrize("fraction", [0.0, 0.125, 0.5, 1.0])
def test_the_loss_of_every_number_is_that_of_its_set_whatever_is_removed_at_a_time(
    fraction: float, ridge: float
) -> None:
    weight, covariance = random_projection(40, 90)
    order, loss = eliminate_channels(weight, covariance, ridge, fraction)
    assert sorted(order.tolist()) == list(range(40))
    highest = 0.0
    for kept in range(40, -1, -1):
        highest = max(highest, refitted_loss(weight, covariance, order[:kept].tolist(), ridge))
        assert loss[kept] == pytest.approx(highest, rel=ROUNDING[ridge])


@pytest.mark.parametrize("tokens", [3000, 300])
def test_single_precision_chooses_and_weighs_as_double_precision_does(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, covariance = random_projection(600, tokens, 48)
    order, loss = eliminate_channels(weight, covariance, 1 / tokens)
    single = weight.double(), covariance, 1 / tokens * float(covariance.trace()), torch.from_numpy(order.copy())
    exact = np.maximum.accumulate(removal_losses(single[0], single[1].clone(), *single[2:]).numpy()[::-1])[::-1]
    monkeypatch.setattr(elimination, "_SINGLE_PRECISION_RIDGE", 1.0)
    _, least = eliminate_channels(weight, covariance, 1 / tokens)
    assert loss[:594] == pytest.approx(exact[:594], rel=2e-5)
    assert loss[:594] == pytest.approx(least[:594], rel=2e-3)


def test_the_scale_of_the_statistics_changes_nothing_about_the_choice() -> None:
    """Neither of very small variances nor of very large ones, though the choice is made in float32."""
    weight, covariance = random_projection(40, 90)
    order, loss = eliminate_channels(weight, covariance, RIDGE, 0.125)
    for scale in (2.0**-180, 2.0**180):
        other, scaled = eliminate_channels(weight, covariance * scale, RIDGE, 0.125)
        assert other.tolist() == order.tolist()
        assert scaled == pytest.approx(loss * scale, rel=1e-12, abs=0.0)


def test_a_block_holds_the_channels_that_cost_least_on_their_own() -> None:
    weight, covariance = random_projection(20, 90)
    order, _ = eliminate_channels(weight, covariance, RIDGE, 0.3)
    alone = [refitted_loss(weight, covariance, set(range(20)) - {channel}, RIDGE) for channel in range(20)]
    assert order[::-1][:6].tolist() == sorted(range(20), key=alone.__getitem__)[:6]


@pytest.mark.parametrize(("ridge", "least"), [(RIDGE, 1e-4), (SMALL_RIDGE, 1e-9)])
def test_channels_that_never_vary_go_first_however_large_their_weights(ridge: float, least: float) -> None:
    """The rounding error of their loss is relative to that of the ridge, which grows with their weights."""
    weight, covariance = random_projection(12)
    dead = [4, 7, 8]
    covariance[dead], covariance[:, dead] = 0.0, 0.0
    weight[:, dead] *= 100.0
    order, loss = eliminate_channels(weight, covariance, ridge, 0.0)
    assert sorted(order[-3:].tolist()) == dead
    assert loss[9] < least * loss[0] < loss[8]


def pair(kept: KeptGrouped) -> tuple[int, int]:
    """Kept groups, and heads in each."""
    return len(kept.groups), len(kept.units) // len(kept.groups)


def sets_by_hand(heads: int, groups: int, kept_groups: int, kept_heads: int) -> list[tuple[int, ...]]:
    """Of all subsets of heads, those that keep so many groups and as many heads in each of them."""
    size = heads // groups
    counts = [0] * (groups - kept_groups) + [kept_heads] * kept_groups
    return [
        subset
        for subset in itertools.combinations(range(heads), kept_groups * kept_heads)
        if sorted(sum(head // size == group for head in subset) for group in range(groups)) == counts
    ]


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 3), (6, 2), (4, 1)])
@pytest.mark.parametrize("seed", [0, 5])
def test_attention_keeps_the_best_of_all_sets(heads: int, groups: int, seed: int) -> None:
    spec = small_spec(heads, groups, 20)
    o_proj, o_cov, _, _ = statistics_of(spec, seed)
    options, _ = options_of(spec, seed)
    assert len(options.sets) == heads
    for option, loss in zip(options.sets, options.losses, strict=True):
        losses = {
            subset: refitted_loss(o_proj, o_cov, [4 * head + i for head in subset for i in range(4)], RIDGE)
            for subset in sets_by_hand(heads, groups, *pair(option))
        }
        assert option.units == min(losses, key=losses.__getitem__)
        assert loss == pytest.approx(losses[option.units], rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 3), (6, 2), (8, 2), (4, 1)])
def test_where_the_sets_are_many_the_elimination_is_greedy_and_its_losses_exact(
    heads: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = small_spec(heads, groups, 20)
    o_proj, o_cov, _, _ = statistics_of(spec)
    exact, _ = options_of(spec)
    best = {pair(option): loss for option, loss in zip(exact.sets, exact.losses, strict=True)}
    monkeypatch.setattr(head_sets, "_EXACT_SETS", 0)
    greedy, _ = options_of(spec)
    assert len(greedy.sets) == heads
    for option, loss in zip(greedy.sets, greedy.losses, strict=True):
        kept = [4 * head + i for head in option.units for i in range(4)]
        assert loss == pytest.approx(refitted_loss(o_proj, o_cov, kept, RIDGE), rel=1e-8, abs=1e-12)
        assert option.units in sets_by_hand(heads, groups, *pair(option))
        assert loss >= best[pair(option)] * (1.0 - 1e-9)
    # One removal from the whole is as good as the best.
    assert greedy.losses[-2] == pytest.approx(best[pair(greedy.sets[-2])], rel=1e-9)


def test_the_greedy_elimination_removes_the_head_that_costs_least_each_time() -> None:
    """Twelve groups of one head: 4095 sets, so the elimination is greedy."""
    spec = small_spec(12, 12, 20, hidden_size=48)
    o_proj, o_cov, _, _ = statistics_of(spec, tokens=100)
    options, _ = options_of(spec, tokens=100)
    kept = set(range(12))
    for option in options.sets[-2::-1]:
        losses = {
            head: refitted_loss(o_proj, o_cov, [4 * other + i for other in kept - {head} for i in range(4)], RIDGE)
            for head in kept
        }
        kept.remove(min(losses, key=losses.__getitem__))
        assert option.units == tuple(sorted(kept))


@pytest.mark.parametrize("ridge", [0.0, -1.0, math.nan, math.inf])
def test_a_ridge_without_meaning_is_refused(ridge: float) -> None:
    with pytest.raises(UsageError, match=r"ridge .* is out of range"):
        options_of(small_spec(4, 2, 20), ridge=ridge)


def test_covariances_that_do_not_fit_are_refused() -> None:
    spec = small_spec(4, 2, 20)
    o_proj, o_cov, down_proj, down_cov = statistics_of(spec)
    broken = down_cov.clone()
    broken[0, 0] = math.nan
    for covariance in (down_cov[:19, :19], broken):
        with pytest.raises(ValueError, match="must be finite, and as wide"):
            eliminated(spec, (o_proj, o_cov.clone()), (down_proj, covariance.clone()))
