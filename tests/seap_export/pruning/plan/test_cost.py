"""Costs are those counted part by part."""

from __future__ import annotations

from typing import Any

import pytest
from support.plans import attention_cost, small_spec, smollm2_spec

from seap_export.model.families import Attention, Mlp
from seap_export.pruning.plan.cost import BUDGETS, CostModel
from seap_export.pruning.plan.sublayers import NeuronOptions, layer_cost, smallest_layer

#: 6 query heads of 4 channels, 3 KV groups, 40 neurons, width 24.
SPEC = small_spec(6, 3, 40)
LAYER = SPEC.layers[0]
PROJECTIONS = {"q": 24 * 24, "k": 24 * 12, "v": 24 * 12, "o": 24 * 24, "gate": 24 * 40, "up": 24 * 40, "down": 40 * 24}


def test_weights_are_those_of_the_projections() -> None:
    spec = smollm2_spec()
    assert layer_cost(LAYER, 24, CostModel()) == SPEC.prunable_weights(0) == sum(PROJECTIONS.values())
    assert layer_cost(spec.layers[0], 576, CostModel()) == spec.prunable_weights(0)
    assert LAYER[Attention].weights(24) == attention_cost(SPEC, CostModel(), 6, 3)
    assert LAYER[Attention].weights(24) == sum(PROJECTIONS[name] for name in "qkvo")
    assert LAYER[Mlp].weights(24) == sum(PROJECTIONS[name] for name in ("gate", "up", "down"))


def test_macs_are_one_a_weight_and_two_a_head_channel_and_position() -> None:
    cost = CostModel("macs", 100)
    scores, mixing = 6 * 4 * 100, 6 * 100 * 4
    assert layer_cost(LAYER, 24, cost) == sum(PROJECTIONS.values()) + scores + mixing
    assert attention_cost(SPEC, cost, 2, 1) == 2 * (24 * 4 * 2) + 2 * (24 * 4) + 2 * 2 * 4 * 100


def test_bytes_are_the_weights_and_the_keys_and_values_of_every_position() -> None:
    cost = CostModel("bytes", 100)
    assert layer_cost(LAYER, 24, cost) == sum(PROJECTIONS.values()) + 2 * 3 * 4 * 100
    assert attention_cost(SPEC, cost, 2, 1) == 2 * (24 * 4 * 2) + 2 * (24 * 4) + 2 * 4 * 100


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_neuron_costs_its_weights_and_the_least_is_a_head_and_a_step(budget: Any) -> None:
    cost = CostModel(budget, 9)
    assert NeuronOptions.cost_of(LAYER.changed(intermediate_size=1)[Mlp], 24, cost) == 3 * 24
    for align, neurons in ((16, 16), (64, 40)):
        least = layer_cost(smallest_layer(SPEC, LAYER, align), 24, cost)
        assert least == attention_cost(SPEC, cost, 1, 1) + neurons * 72


@pytest.mark.parametrize("budget", ["macs", "bytes"])
def test_a_sliding_window_is_all_that_is_seen_of_a_longer_context(budget: Any) -> None:
    layer = small_spec(6, 3, 40, model_type="mistral", sliding_window=5).layers[0]
    assert layer_cost(layer, 24, CostModel(budget, 1000)) == layer_cost(LAYER, 24, CostModel(budget, 5))
    assert layer_cost(layer, 24, CostModel(budget, 3)) == layer_cost(LAYER, 24, CostModel(budget, 3))


@pytest.mark.parametrize(("budget", "context"), [("seconds", 1), ("macs", 0)])
def test_a_cost_without_meaning_is_refused(budget: Any, context: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        CostModel(budget, context)
