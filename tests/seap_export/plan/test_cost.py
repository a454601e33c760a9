"""Costs are those counted part by part."""

from __future__ import annotations

from typing import Any

import pytest
from support.plans import small_spec, smollm2_spec

from seap_export.plan.cost import BUDGETS, CostModel, layer_shape

#: 6 query heads of 4 channels, 3 KV groups, 40 neurons, width 24.
SHAPE = layer_shape(small_spec(6, 3, 40), 0)
PROJECTIONS = {"q": 24 * 24, "k": 24 * 12, "v": 24 * 12, "o": 24 * 24, "gate": 24 * 40, "up": 24 * 40, "down": 40 * 24}


def test_weights_are_those_of_the_projections() -> None:
    spec = smollm2_spec()
    assert CostModel().dense(SHAPE) == SHAPE.total_weights == sum(PROJECTIONS.values())
    assert layer_shape(spec, 0).total_weights == spec.prunable_weights(0)
    assert SHAPE.attention_weights(6, 3) == sum(PROJECTIONS[name] for name in "qkvo")
    assert SHAPE.neuron_weights * 40 == sum(PROJECTIONS[name] for name in ("gate", "up", "down"))


def test_macs_are_one_a_weight_and_two_a_head_channel_and_position() -> None:
    cost = CostModel("macs", 100)
    scores, mixing = 6 * 4 * 100, 6 * 100 * 4
    assert cost.dense(SHAPE) == sum(PROJECTIONS.values()) + scores + mixing
    assert cost.attention(SHAPE, 2, 1) == 2 * (24 * 4 * 2) + 2 * (24 * 4) + 2 * 2 * 4 * 100


def test_bytes_are_the_weights_and_the_keys_and_values_of_every_position() -> None:
    cost = CostModel("bytes", 100)
    assert cost.dense(SHAPE) == sum(PROJECTIONS.values()) + 2 * 3 * 4 * 100
    assert cost.attention(SHAPE, 2, 1) == 2 * (24 * 4 * 2) + 2 * (24 * 4) + 2 * 4 * 100


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_neuron_costs_its_weights_and_the_least_is_a_head_and_a_step(budget: Any) -> None:
    cost = CostModel(budget, 9)
    assert cost.neuron(SHAPE) == 3 * 24
    assert cost.least(SHAPE, 16) == cost.attention(SHAPE, 1, 1) + 16 * 72
    assert cost.least(SHAPE, 64) == cost.attention(SHAPE, 1, 1) + 40 * 72


@pytest.mark.parametrize("budget", ["macs", "bytes"])
def test_a_sliding_window_is_all_that_is_seen_of_a_longer_context(budget: Any) -> None:
    shape = layer_shape(small_spec(6, 3, 40, model_type="mistral", sliding_window=5), 0)
    assert CostModel(budget, 1000).dense(shape) == CostModel(budget, 5).dense(SHAPE)
    assert CostModel(budget, 3).dense(shape) == CostModel(budget, 3).dense(SHAPE)


@pytest.mark.parametrize(("budget", "context"), [("seconds", 1), ("macs", 0)])
def test_a_cost_without_meaning_is_refused(budget: Any, context: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        CostModel(budget, context)
