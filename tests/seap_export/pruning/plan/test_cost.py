"""Costs are those counted part by part."""

from __future__ import annotations

from typing import Any

import pytest
from support.plans import attention_cost, small_spec

from seap_export.model.families import Mlp
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.sublayers import NeuronOptions, layer_cost, smallest_layer

#: 6 query heads of 4 channels, 3 KV groups, 40 neurons, width 24.
SPEC = small_spec(6, 3, 40)
LAYER = SPEC.layers[0]
PROJECTIONS = {"q": 24 * 24, "k": 24 * 12, "v": 24 * 12, "o": 24 * 24, "gate": 24 * 40, "up": 24 * 40, "down": 40 * 24}


@pytest.mark.parametrize(
    ("cost", "whole", "shrunk"),
    [
        (CostModel(), 0, 0),
        (CostModel("macs", 100), 2 * 6 * 4 * 100, 2 * 2 * 4 * 100),  # scores and mixing of each head
        (CostModel("bytes", 100), 2 * 3 * 4 * 100, 2 * 4 * 100),  # keys and values of each group
    ],
)
def test_it_is_the_weights_and_what_every_position_adds(cost: CostModel, whole: int, shrunk: int) -> None:
    assert layer_cost(LAYER, 24, cost) == SPEC.prunable_weights(0) + whole == sum(PROJECTIONS.values()) + whole
    assert attention_cost(SPEC, cost, 2, 1) == 2 * (24 * 4 * 2) + 2 * (24 * 4) + shrunk
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
