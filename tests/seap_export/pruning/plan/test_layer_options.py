"""Options lose the scores of what they remove and cost what is counted part by part.

Groups of heads are cut to sizes that CUDA's attention prefers where that loses next to nothing.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from support.plans import attention_cost, both, random_scores, scored_options, scores_of, small_spec
from support.product import KeptHeads, KeptNeurons, LayerPlan, Plan, PlanSettings, Source, TaskMixture, plan_variant
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import Attention, Mamba, Mlp, model_spec
from seap_export.pruning.plan.cost import BUDGETS, CostModel
from seap_export.pruning.plan.layer_options import options_from_scores
from seap_export.pruning.plan.ranked import Ranking
from seap_export.pruning.plan.sublayers import KeptMamba, NeuronOptions, layer_cost, smallest_layer, whole_words

SPEC = small_spec(6, 3, 5)
HEADS, NEURONS = both(options_from_scores(SPEC, 0, random_scores(SPEC)[0]))


def test_an_option_loses_the_scores_of_what_it_removes_and_costs_what_the_shrunk_sublayer_does() -> None:
    scores = random_scores(SPEC)[0]
    for kept, loss, weights in zip(HEADS.sets, HEADS.losses, HEADS.costs(CostModel()), strict=True):
        removed = [head for head in range(6) if head not in kept.units]
        lost = sum(float(scores["o_proj"][head, channel]) for head in removed for channel in range(4))
        assert loss == pytest.approx(lost, rel=1e-12, abs=0.0)
        assert weights == 2 * 24 * 4 * (len(kept.units) + len(kept.groups))
    _, neurons = both(options_from_scores(SPEC, 0, scores_of([1] * 6, [2, 5, 0, 5, 1])))
    assert neurons.order.tolist() == [1, 3, 0, 4, 2]
    assert neurons.loss_of.tolist() == [13, 8, 3, 1, 0, 0]
    for options in (HEADS, NEURONS, NEURONS.aligned(2)):
        for budget in BUDGETS:
            cost = CostModel(budget, 9)
            shrunk = [options.shrunk(option) for option in range(len(options.losses))]
            assert options.costs(cost).tolist() == [options.cost_of(layer, 24, cost) for layer in shrunk]
    assert HEADS.nearest(np.array([0.0, 750.0, 1e9])).tolist() == [0, 2, 5]
    assert NEURONS.aligned(2).nearest(np.array([-9.0, 72 * 2.9, 72 * 3.1, 72 * 9.0])).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("options", "values", "message"),
    [
        (HEADS, {"sets": (), "loss_of": np.zeros(0)}, "must keep all heads"),
        (HEADS, {"loss_of": np.append(HEADS.loss_of[:-1], 1.0)}, "without loss"),
        (HEADS, {"loss_of": HEADS.loss_of[:-1]}, "each option must have a loss"),
        (HEADS, {"loss_of": -HEADS.loss_of}, "not negative"),
        (HEADS, {"loss_of": HEADS.loss_of + np.inf}, "finite"),
        (HEADS, {"sets": (HEADS.sets[2], *HEADS.sets[1:])}, "sorted by weights"),
        (NEURONS, {"order": np.array([0, 1, 2, 3, 3])}, "order of all channels"),
        (NEURONS, {"loss_of": np.zeros(5)}, "one value for every number"),
        (NEURONS, {"loss_of": np.ones(6)}, "0 for all of them"),
        (NEURONS, {"loss_of": np.array([5.0, 3, 4, 2, 1, 0])}, "never rise"),
        (NEURONS, {"loss_of": np.array([np.inf, 3, 2, 1, 1, 0])}, "finite"),
    ],
)
def test_options_that_contradict_themselves_are_refused(options: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(options, **values)


def test_heads_and_costs_without_meaning_are_refused() -> None:
    for budget, context in (("seconds", 1), ("macs", 0)):
        with pytest.raises(ValueError, match="must be"):
            CostModel(budget, context)  # type: ignore[arg-type]
    for size, groups, heads in ((2, (), ()), (2, (0, 1), (0, 1, 2)), (2, (0,), ()), (0, (0,), (0,)), (2, (1,), (0,))):
        with pytest.raises(ValueError, match="must"):
            KeptHeads(heads, size, groups)


#: 6 query heads of 4 channels, 3 KV groups, 40 neurons, width 24.
DENSE = small_spec(6, 3, 40)
LAYER = DENSE.layers[0]
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
    assert layer_cost(LAYER, 24, cost) == DENSE.prunable_weights(0) + whole == sum(PROJECTIONS.values()) + whole
    assert attention_cost(DENSE, cost, 2, 1) == 2 * (24 * 4 * 2) + 2 * (24 * 4) + shrunk
    assert NeuronOptions.cost_of(LAYER.changed(intermediate_size=1)[Mlp], 24, cost) == 3 * 24
    for align, neurons in ((16, 16), (64, 40)):
        least = layer_cost(smallest_layer(DENSE, LAYER, align), 24, cost)
        assert least == attention_cost(DENSE, cost, 1, 1) + neurons * 72


@pytest.mark.parametrize("budget", ["macs", "bytes"])
def test_a_sliding_window_is_all_that_is_seen_of_a_longer_context(budget: Any) -> None:
    layer = small_spec(6, 3, 40, model_type="mistral", sliding_window=5).layers[0]
    assert layer_cost(layer, 24, CostModel(budget, 1000)) == layer_cost(LAYER, 24, CostModel(budget, 5))
    assert layer_cost(layer, 24, CostModel(budget, 3)) == layer_cost(LAYER, 24, CostModel(budget, 3))


@pytest.mark.parametrize(
    ("heads", "kv_groups", "values", "raised"),
    [
        (9, 3, {}, set()),  # 3 is the dense model's
        (8, 2, {}, {3}),
        (14, 2, {}, {3, 6}),
        (12, 1, {}, {3, 6, 7, 9, 10, 11}),
        # the kernel takes no such heads at all
        (8, 2, {"head_dim": 32}, set()),
        (8, 2, {"head_dim": 96}, set()),
        (8, 2, {"model_type": "gemma2", "attn_logit_softcapping": 30.0}, set()),
    ],
)
def test_which_heads_cost_more(heads: int, kv_groups: int, values: dict[str, Any], raised: set[int]) -> None:
    spec = small_spec(heads, kv_groups, 64, **{"head_dim": 64, **values})
    options, neurons = both(options_from_scores(spec, 0, scores_of([1.0] * heads, [1.0] * 64, spec.head_dim)))
    preferring = options.preferring(0.5)
    assert preferring.sets == options.sets
    assert neurons.preferring(0.5) is neurons
    changed = set()
    for kept, loss, other in zip(options.sets, preferring.losses, options.losses, strict=True):
        if loss != other:
            assert loss == pytest.approx(1.5 * other)
            changed.add(len(kept.units) // len(kept.groups))
    assert changed == raised


def planned(worst: float, tolerance: float) -> Plan:
    """Of two layers with a group of 4 heads each, one worth `worst` and the others 1; two heads go, and no neuron."""
    spec = small_spec(4, 1, 64, layers=2, head_dim=64)
    scores = [scores_of([1.0, 1.0, 1.0, worst], [1e6] * 64, 64)] * 2
    ranking = Ranking(tuple(scored_options(spec, scores)), tuple(scores), torch.ones(2, 2, dtype=torch.float64))
    settings = PlanSettings("wifv", align=64, compensation="none", group_tolerance=tolerance)
    source, statistics = (
        SimpleNamespace(spec=spec, name="m", digest="ab" * 32),
        SimpleNamespace(name="a", weights={"a": 1.0}, num_tokens=96),
    )
    return plan_variant(cast(Source, source), cast(TaskMixture, statistics), ranking, settings, 2 / 13 - 1e-6)


@pytest.mark.parametrize(
    ("worst", "tolerance", "expected"),
    [
        (0.9, 0.0, [3, 3]),
        (0.9, 0.04, [3, 3]),  # 2 and 4 lose 6 percent more
        (0.9, 0.06, [2, 4]),
        (0.0, 0.5, [3, 3]),  # 3 and 3 lose nothing
    ],
)
def test_groups_are_cut_within_the_tolerance(worst: float, tolerance: float, expected: list[int]) -> None:
    plan = planned(worst, tolerance)
    assert sorted(len(layer[KeptHeads].units) for layer in plan.layers) == expected
    assert plan.settings.group_tolerance == tolerance
    assert plan.achieved_ratio == pytest.approx(2 / 13)


def test_what_belongs_together_goes_together() -> None:
    """Heads that are normalised together, keys and values that layers share, and what stays whole."""
    spec = model_spec(micro_config(**VARIATIONS["nemotron_h-all"]))
    options: Any = scored_options(spec, random_scores(spec))[0][0]
    assert {len(kept.units) for kept in options.sets} == {3, 6}
    assert options.sets[0].units in ((0, 1, 2), (3, 4, 5))
    assert not KeptMamba((0, 3), 3, (0, 1)).fits(spec.first(Mamba))
    spec = model_spec(micro_config(**VARIATIONS["gemma4-all"]))
    groups = [
        {heads.shrunk(option).num_key_value_heads for option in range(len(heads.losses))}
        for heads, *_ in scored_options(spec, random_scores(spec))
    ]
    assert groups == [{1, 2, 3}, {3}, {3}]
    assert "KV heads stay in layers that share keys and values" in whole_words(spec)
    layer = small_spec(6, 3, 40, model_type="olmo2").layers[0]
    for number in (4, 6):
        plan = LayerPlan((KeptHeads.of(layer[Attention], tuple(range(number))), KeptNeurons((1, 2))))
        assert plan.fits(layer) is (number == 6)
