"""What is eliminated first is what a refit for every candidate finds, and losses are those of the refits."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from support.plans import both, random_projection, refitted_loss, small_spec
from support.product import OUTPUTS, Projection
from support.stand_ins.cuda import fake_tensors

from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.elimination import channels as elimination
from seap_export.pruning.plan.elimination import head_sets, symmetric
from seap_export.pruning.plan.elimination.channels import eliminate_channels, removal_order
from seap_export.pruning.plan.elimination.head_sets import HeadGroups
from seap_export.pruning.plan.elimination.refit import Refit, SetLosses, removal_losses
from seap_export.pruning.plan.layer_options import options_from_elimination
from seap_export.pruning.plan.sublayers import HeadOptions
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


Statistics = tuple[dict[Projection, torch.Tensor], dict[Projection, torch.Tensor]]


def statistics_of(spec: ModelSpec, seed: int = 0, tokens: int = 60) -> Statistics:
    """The weights and the covariances of both output projections."""
    projections = [
        random_projection(one.channels, tokens, spec.hidden_size, seed + index)
        for index, one in enumerate(spec.layers[0].sublayers)
    ]
    weights, covariances = (dict(zip(OUTPUTS, parts, strict=True)) for parts in zip(*projections, strict=True))
    return weights, covariances


def options_of(spec: ModelSpec, statistics: Statistics, ridge: float = RIDGE) -> HeadOptions:
    weights, covariances = statistics
    copies = {output: covariance.clone() for output, covariance in covariances.items()}
    return both(options_from_elimination(spec, 0, weights, copies, ridge=ridge))[0]


def heads_loss(statistics: Statistics, heads: Iterable[int]) -> float:
    weights, covariances = statistics
    kept = [4 * head + i for head in heads for i in range(4)]
    return refitted_loss(weights["o_proj"], covariances["o_proj"], kept, RIDGE)


#: Sets of 14 channels that are removed one after another, all channels in the end.
REMOVALS = ([3], [0, 9, 4], [13], [1, 2], [12, 11, 10], [5, 8], [6], [7])


@pytest.mark.parametrize("strip", [1, 5, 512])
@pytest.mark.parametrize("tokens", [40, 5])
def test_losses_are_those_of_refits_from_nothing(tokens: int, strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 5 tokens the covariance is singular; blocks of any size give what whole matrices give."""
    monkeypatch.setattr(symmetric, "_STRIP", strip)
    weight, covariance = random_projection(14, tokens)
    ridge, left, loss = RIDGE * float(covariance.trace()), list(range(14)), 0.0
    refit = Refit(weight, covariance.clone(), ridge)

    def refitted(kept: Iterable[int]) -> Any:
        return pytest.approx(refitted_loss(weight, covariance, kept, RIDGE), rel=1e-9)

    for removal in REMOVALS:
        assert [loss + more for more in refit.increases().tolist()] == [refitted({*left} - {one}) for one in left]
        left = [channel for channel in left if channel not in removal]
        assert loss + refit.increase(torch.tensor(removal)) == refitted(left)
        loss += refit.remove(torch.tensor(removal))
        assert loss == refitted(left)
        assert refit.left.tolist() == left
    order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    losses = removal_losses(weight, covariance.clone(), ridge, order)
    assert losses.dtype == torch.float64
    assert losses.tolist() == [refitted(order[:kept].tolist()) for kept in range(15)]
    sets = SetLosses(weight, covariance.clone(), ridge, 2)
    for heads in ((0,), (6,), (1, 4), (2, 3, 5), (0, 1, 5, 6), (0, 2, 3, 4, 5, 6), tuple(range(7))):
        assert sets.loss(heads) == refitted(2 * head + i for head in heads for i in range(2))
    broken = covariance - 10.0 * torch.eye(14)
    for refuse in (lambda: Refit(weight, broken, 1.0), lambda: removal_losses(weight, broken, 1.0, order)):
        with pytest.raises(UsageError, match="ridge is too small"):
            refuse()


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
def test_the_loss_of_every_number_is_that_of_its_set_for_any_step(fraction: float, ridge: float) -> None:
    weight, covariance = random_projection(40, 90)
    order, loss = eliminate_channels(weight, covariance, ridge, fraction)
    assert sorted(order.tolist()) == list(range(40))
    highest = 0.0
    for kept in range(40, -1, -1):
        highest = max(highest, refitted_loss(weight, covariance, order[:kept].tolist(), ridge))
        assert loss[kept] == pytest.approx(highest, rel=ROUNDING[ridge])
    # the first block holds the channels that cost least on their own
    block = max(1, int(fraction * 40))
    alone = [refitted_loss(weight, covariance, set(range(40)) - {channel}, ridge) for channel in range(40)]
    assert order[::-1][:block].tolist() == sorted(range(40), key=alone.__getitem__)[:block]
    # neither very small variances nor very large ones change the choice, though it is made in float32
    for scale in (2.0**-180, 2.0**180) if ridge == RIDGE else ():
        other, scaled = eliminate_channels(weight, covariance * scale, ridge, fraction)
        assert other.tolist() == order.tolist()
        assert scaled == pytest.approx(loss * scale, rel=1e-12, abs=0.0)


@pytest.mark.parametrize("tokens", [3000, 300])
def test_single_precision_chooses_as_double_precision_does(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, covariance = random_projection(600, tokens, 48)
    order, loss = eliminate_channels(weight, covariance, 1 / tokens)
    single = weight.double(), covariance, 1 / tokens * float(covariance.trace()), torch.from_numpy(order.copy())
    exact = np.maximum.accumulate(removal_losses(single[0], single[1].clone(), *single[2:]).numpy()[::-1])[::-1]
    monkeypatch.setattr(elimination, "_SINGLE_PRECISION_RIDGE", 1.0)
    _, least = eliminate_channels(weight, covariance, 1 / tokens)
    assert loss[:594] == pytest.approx(exact[:594], rel=2e-5)
    assert loss[:594] == pytest.approx(least[:594], rel=2e-3)


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


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 3), (6, 2), (8, 2), (4, 1)])
def test_attention_keeps_the_best_sets_or_is_greedy(heads: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(heads, groups, 20)
    statistics = statistics_of(spec, seed=groups)
    exact = options_of(spec, statistics)
    monkeypatch.setattr(head_sets, "_EXACT_SETS", 0)
    greedy = options_of(spec, statistics)
    assert len(exact.sets) == len(greedy.sets) == heads
    best = {}
    for option, loss in zip(exact.sets, exact.losses, strict=True):
        losses = {subset: heads_loss(statistics, subset) for subset in sets_by_hand(heads, groups, *pair(option))}
        assert option.units == min(losses, key=losses.__getitem__)
        assert loss == pytest.approx(losses[option.units], rel=1e-8, abs=1e-12)
        best[pair(option)] = loss
    for option, loss in zip(greedy.sets, greedy.losses, strict=True):
        assert loss == pytest.approx(heads_loss(statistics, option.units), rel=1e-8, abs=1e-12)
        assert option.units in sets_by_hand(heads, groups, *pair(option))
        assert loss >= best[pair(option)] * (1.0 - 1e-9)
    # One removal from the whole is as good as the best.
    assert greedy.losses[-2] == pytest.approx(best[pair(greedy.sets[-2])], rel=1e-9)


def test_the_greedy_elimination_removes_the_head_that_costs_least_each_time() -> None:
    """Twelve groups of one head: 4095 sets, so the elimination is greedy."""
    spec = small_spec(12, 12, 20, hidden_size=48)
    statistics, kept = statistics_of(spec, tokens=100), set(range(12))
    for option in options_of(spec, statistics).sets[-2::-1]:
        kept.remove(min(kept, key=lambda head: heads_loss(statistics, kept - {head})))
        assert option.units == tuple(sorted(kept))


def test_what_has_no_meaning_is_refused() -> None:
    spec = small_spec(4, 2, 20)
    weights, covariances = statistics_of(spec)
    for ridge in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match=r"ridge .* is out of range"):
            options_of(spec, (weights, covariances), ridge)
    for broken in (covariances["down_proj"][:19, :19], torch.full((20, 20), math.nan, dtype=torch.float64)):
        with pytest.raises(ValueError, match="must be finite, and as wide"):
            options_of(spec, (weights, covariances | {"down_proj": broken}))


def test_what_is_computed_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors have no values, so whether a factorisation succeeded is not asked."""
    monkeypatch.setattr(symmetric, "_refuse", lambda failed: None)
    with fake_tensors():
        weight = torch.empty(7, 1200, dtype=torch.bfloat16, device="cuda")

        def covariance() -> torch.Tensor:
            return torch.empty(1200, 1200, device="cuda")

        order = removal_order(weight, covariance(), 1e-4, 0.125)
        assert (order.device.type, order.shape) == ("cuda", (1200,))
        losses = removal_losses(weight, covariance(), 1e-4, torch.arange(1200, device="cuda"))
        assert (losses.device.type, losses.shape, losses.dtype) == ("cuda", (1201,), torch.float64)
        refit = Refit(weight, covariance(), 1e-4).copy()
        heads = HeadGroups(1, 300, 4).channels([2, 5], torch.device("cuda"))
        assert refit.increase(heads).device.type == refit.remove(heads).device.type == "cuda"
