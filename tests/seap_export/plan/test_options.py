"""Options of scores lose the scores of what they remove; options that contradict themselves are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from support.plans import random_scores, scores_of, small_spec

from seap_export.plan.options import AttentionOption, LayerOptions, options_from_scores
from seap_export.plan.plan import LayerPlan

SPEC = small_spec(6, 3, 5)
OPTIONS = options_from_scores(SPEC, 0, random_scores(SPEC)[0])


def test_an_attention_option_loses_the_scores_of_all_channels_of_the_heads_removed() -> None:
    scores = random_scores(SPEC)[0]
    for option in OPTIONS.attention:
        removed = [head for head in range(6) if head not in option.heads]
        lost = sum(float(scores.head_channels[head, channel]) for head in removed for channel in range(4))
        assert option.loss == pytest.approx(lost, rel=1e-12, abs=0.0)
        assert option.weights == 2 * 24 * 4 * (len(option.heads) + len(option.kv_groups))


def test_there_is_one_option_for_every_pair_of_groups_and_heads_a_group() -> None:
    pairs = [(len(option.kv_groups), len(option.heads) // len(option.kv_groups)) for option in OPTIONS.attention]
    assert sorted(pairs) == [(groups, heads) for groups in (1, 2, 3) for heads in (1, 2)]
    assert pairs[0] == (1, 1)
    assert pairs[-1] == (3, 2)


def test_neurons_are_sorted_by_score_and_lose_the_scores_of_the_rest() -> None:
    options = options_from_scores(SPEC, 0, scores_of([1] * 6, [2, 5, 0, 5, 1]))
    assert options.neuron_order.tolist() == [1, 3, 0, 4, 2]
    assert options.neuron_loss.tolist() == [13, 8, 3, 1, 0, 0]


def test_a_plan_keeps_the_most_important_neurons_sorted() -> None:
    options = options_from_scores(SPEC, 0, scores_of([1] * 6, [2, 5, 0, 6, 1]))
    assert options.plan(options.attention[0], 3) == LayerPlan(2, (0,), (0,), (0, 1, 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"attention": ()}, "must keep all heads"),
        ({"attention": OPTIONS.attention[:-1]}, "must keep all heads"),
        (
            {"attention": (*OPTIONS.attention[:-1], dataclasses.replace(OPTIONS.attention[-1], loss=1.0))},
            "without loss",
        ),
        ({"attention": (OPTIONS.attention[2], *OPTIONS.attention)}, "sorted by weights"),
        ({"neuron_order": np.array([0, 1, 2, 3, 3])}, "order of all neurons"),
        ({"neuron_order": np.arange(4)}, "order of all neurons"),
        ({"neuron_loss": np.zeros(5)}, "one value for every number"),
        ({"neuron_loss": np.ones(6)}, "0 for all of them"),
        ({"neuron_loss": np.array([5.0, 3, 4, 2, 1, 0])}, "never rise"),
        ({"neuron_loss": np.array([np.inf, 3, 2, 1, 1, 0])}, "finite"),
    ],
)
def test_options_that_contradict_themselves_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(OPTIONS, **values)
    assert isinstance(dataclasses.replace(OPTIONS), LayerOptions)


@pytest.mark.parametrize(
    ("groups", "heads", "weights", "loss"),
    [((), (), 1, 0.0), ((0, 1), (0, 1, 2), 1, 0.0), ((0,), (), 1, 0.0), ((0,), (0,), 0, 0.0), ((0,), (0,), 1, -1.0)],
)
def test_an_attention_option_without_meaning_is_refused(
    groups: tuple[int, ...], heads: tuple[int, ...], weights: int, loss: float
) -> None:
    with pytest.raises(ValueError, match="must"):
        AttentionOption(groups, heads, weights, loss)
