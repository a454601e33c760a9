"""One shape for all layers: the best of all shapes that meet the ratio, found by trying every one."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.models import why_not_loaded
from support.plans import kept_sizes, random_scores, random_sensitivity, scored_options, small_spec, smollm2_spec
from support.product import EVEN, LayerPlan, portable_config
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig, AutoModelForCausalLM

from seap_export.errors import UsageError
from seap_export.model.families import Attention, Mlp, ModelSpec, model_spec
from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE, check_ratio
from seap_export.pruning.plan.choice.uniform import solve_uniform
from seap_export.pruning.scores import LayerScores, unit_scores

Solved = tuple[tuple[LayerPlan, ...], float]
RATIOS = (0.05, 0.2, 0.35, 0.6, 0.8)


def solve(spec: ModelSpec, ratio: float, balance: Any = "loss", align: int = 16, head_worth: float = 1.0) -> Solved:
    """From random scores and a random sensitivity."""
    options = scored_options(spec, random_scores(spec, head_worth))
    return solve_uniform(spec, options, ratio, align, balance, random_sensitivity(spec))


class Shape(NamedTuple):
    """A shape and what it comes to."""

    groups: int
    heads: int
    neurons: int
    achieved: float
    attention: float
    loss: float


def least_heads_lost(layer: LayerScores, groups: int, each: int, size: int, head_dim: int) -> float:
    """The least sum of scores of removed heads, over every allowed set."""
    worth = unit_scores(layer["o_proj"]).numpy() * head_dim
    all_groups = [range(start, start + size) for start in range(0, len(worth), size)]
    return min(
        worth.sum() - sum(worth[list(heads)].sum() for heads in kept)
        for chosen in itertools.combinations(all_groups, groups)
        for kept in itertools.product(*(itertools.combinations(group, each) for group in chosen))
    )


def best_by_hand(spec: ModelSpec, scores: list[LayerScores], ratio: float, align: int, balance: str) -> Shape:
    sensitivity, dense = random_sensitivity(spec), spec.first(Attention)
    mlp = spec.first(Mlp)
    size, wide, dim = dense.heads_per_group, spec.hidden_size, spec.head_dim
    whole_attention = 2 * wide * dim * (dense.num_attention_heads + dense.num_key_value_heads)
    each_neuron = (3 if mlp.is_gated else 2) * wide
    total = whole_attention + each_neuron * mlp.intermediate_size
    shapes = []
    for groups, each in itertools.product(range(1, dense.num_key_value_heads + 1), range(1, size + 1)):
        attention = 2 * wide * dim * groups * (each + 1)
        counts = [*range(align, mlp.intermediate_size, align), mlp.intermediate_size]
        neurons = min(counts, key=lambda count: abs(attention + each_neuron * count - (1.0 - ratio) * total))
        lost = [
            attention_share * least_heads_lost(layer, groups, each, size, dim)
            + mlp_share * np.sort(layer["down_proj"].numpy())[: mlp.intermediate_size - neurons].sum()
            for layer, (attention_share, mlp_share) in zip(scores, sensitivity, strict=True)
        ]
        achieved = 1.0 - (attention + each_neuron * neurons) / total
        shapes.append(
            Shape(groups, groups * each, neurons, achieved, 1.0 - attention / whole_attention, float(sum(lost)))
        )
    errors = [abs(shape.achieved - ratio) for shape in shapes]
    near = [s for s, error in zip(shapes, errors, strict=True) if error <= max(RATIO_TOLERANCE, min(errors))]
    if balance == "alike":
        return min(near, key=lambda shape: (abs(shape.attention - ratio), shape.loss))
    return min(near, key=lambda shape: shape.loss)


@pytest.mark.parametrize(("align", "balance"), [(1, "loss"), (16, "loss"), (1, "alike"), (16, "alike")])
@pytest.mark.parametrize("head_worth", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("ratio", RATIOS)
def test_it_is_the_best_of_all_shapes(balance: Any, align: int, head_worth: float, ratio: float) -> None:
    """With steps of 16 neurons no shape, or one alone, is within the tolerance."""
    spec = small_spec(heads=6, kv_groups=3, neurons=100, layers=3)
    best = best_by_hand(spec, random_scores(spec, head_worth), ratio, align, balance)
    layers, achieved = solve(spec, ratio, balance, align, head_worth)
    assert {kept_sizes(plan) for plan in layers} == {(best.groups, best.heads, best.neurons)}
    assert achieved == pytest.approx(best.achieved, abs=1e-12)


SIX = {"num_key_value_heads": 6, "intermediate_size": 400}


@pytest.mark.parametrize(
    ("values", "some", "refused"),
    [
        # transformers 5 takes no llama config whose heads do not divide the hidden size
        ({"model_type": "llama", **SIX}, {1, 2, 3, 4, 6}, {5}),
        ({"model_type": "mistral", **SIX}, {1, 2, 3, 4, 5, 6}, set()),
        ({"model_type": "qwen2", **SIX}, {5}, set()),
        # heads stay where the class takes their size from their number
        (VARIATIONS["granitemoehybrid"], {6}, {1, 2, 3, 4, 5}),
        (VARIATIONS["phi3-all"], {6}, {1, 2, 3, 4, 5}),
        (VARIATIONS["phi3-partial"], {4}, set()),
        (VARIATIONS["gpt2"], {6}, set()),
    ],
)
def test_heads_that_the_class_refuses_are_left_out(values: dict[str, Any], some: set[int], refused: set[int]) -> None:
    config = micro_config(**values)
    spec = model_spec(config)
    most = 0.85 if SIX.items() <= values.items() else 0.4
    found = [kept_sizes(solve(spec, ratio, "alike", 1)[0][0])[:2] for ratio in np.linspace(0.02, most, 30)]
    heads = {heads for _, heads in found}
    assert some <= heads
    assert not heads & refused
    for groups, number in set(found) if why_not_loaded(spec.family, "uniform") is None else ():
        sizes = {spec.family.key("num_attention_heads"): number, "num_key_value_heads": groups}
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**portable_config(config), **sizes}))
        output = model.get_submodule(spec.family.module("o_proj", 1))
        assert number * spec.layers[1][Attention].head_dim in output.weight.shape  # GPT-2 has the inputs first


@pytest.mark.parametrize("fixed", [True, False])
def test_a_ratio_out_of_reach_is_refused_and_where_heads_stay_one_that_takes_some(fixed: bool) -> None:
    if fixed:
        spec, align, least = model_spec(micro_config(**VARIATIONS["granitemoehybrid"])), 1, (3, 6, 1)
        most, message = (
            3 * 79 / (2 * 16 * (6 + 3) + 3 * 80),
            "fixes sizes.* at most {} can be removed.* --layout uniform",
        )
    else:
        spec, align, least = smollm2_spec(num_hidden_layers=4), 16, (1, 1, 16)
        most, message = 1.0 - (4 * 64 + 3 * 16) / (2 * 9 * 64 + 2 * 3 * 64 + 3 * 1536), "at most {} can be removed"
    layers, achieved = solve(spec, 0.0)
    assert tuple(plan.spec(layer, frozenset()) for plan, layer in zip(layers, spec.layers, strict=True)) == spec.layers
    assert achieved == 0.0
    layers, achieved = solve(spec, most, align=align)
    assert achieved == pytest.approx(most, abs=RATIO_TOLERANCE)
    assert kept_sizes(layers[0]) == least
    with pytest.raises(UsageError, match=message.format(f"{most:.3f}")):
        solve(spec, most + 0.01, align=align)
    with contextlib.nullcontext() if fixed else pytest.raises(UsageError, match=f"at most {most:.3f}"):
        check_ratio(spec, most + 0.01, EVEN, align)


def test_what_makes_no_sense_is_refused() -> None:
    spec = small_spec(heads=6, kv_groups=3, neurons=100, layers=2)
    for changed in ({"intermediate_size": 64}, {"num_attention_heads": 3}):
        other = spec.with_layers((spec.layers[0], spec.layers[1].changed(**changed)))
        with pytest.raises(UsageError, match="the layers of this model differ in shape; leave out --layout uniform"):
            solve(other, 0.2)
