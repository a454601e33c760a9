"""The ranking is that of a plain loop over all heads and neurons."""

from __future__ import annotations

import statistics

import pytest
import torch
from support.plans import random_scores, scored_options, scores_of, small_spec

from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.choice.layer import LayerChoices, Planned
from seap_export.pruning.plan.choice.ranking import rank, standardised
from seap_export.pruning.plan.sublayers import KeptHeads, KeptNeurons
from seap_export.pruning.scores import LayerScores


def ranked(spec: ModelSpec, scores: list[LayerScores], fraction: float) -> list[Planned]:
    choices = [LayerChoices(option, 1) for option in scored_options(spec, scores)]
    budget = fraction * sum(choice.total_weights for choice in choices)
    return rank(choices, scores, [True] * len(choices), budget)


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


def by_hand(
    spec: ModelSpec, scores: list[LayerScores], budget: float
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
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
    kept = [(plan[KeptHeads].heads, plan[KeptNeurons].neurons) for plan, _ in ranked(spec, scores, fraction)]
    assert kept == by_hand(spec, scores, budget)


def test_an_uneven_rest_takes_the_nearest_even_shape_that_loses_least() -> None:
    """Head 0 alone ranks lowest, but without it one group would have one head, the others two.

    Each head is one part (q, o) and each group another (k, v): to 8 parts, all 9 are nearer than 6, two by two.
    """
    spec = small_spec(6, 3, 40)
    scores = scores_of([1, 50, 50, 50, 50, 50], torch.linspace(40.0, 60.0, 40))
    plan, _ = ranked(spec, [scores], 1.0 - 4 * 72 / spec.prunable_weights(0))[0]
    assert plan[KeptHeads].heads == tuple(range(6))
    assert plan[KeptNeurons].neurons == tuple(range(4, 40))
    # heads 0, 2 and 4 and their three groups weigh as much as two groups of two heads, which hold more
    spec = small_spec(6, 3, 12)
    scores = scores_of([10, 8, 10, 8, 10, 0], [0.0] + [1.0] * 11)
    plan, weights = ranked(spec, [scores], (6 * 2 * 24 * 4 + 10 * 72) / spec.prunable_weights(0))[0]
    assert (plan[KeptHeads].heads, len(plan[KeptNeurons].neurons)) == ((0, 1, 2, 3), 10)
    assert weights == 6 * 2 * 24 * 4 + 10 * 72
