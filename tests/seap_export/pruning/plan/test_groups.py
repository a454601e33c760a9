"""Groups of heads are cut to sizes that CUDA's attention prefers where that loses next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support.plans import both, scored_options, scores_of, small_spec
from support.product import Source, TaskMixture

from seap_export.model.families import Attention, ModelSpec
from seap_export.pruning.plan.make import plan_variant
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.ranked import Ranking
from seap_export.pruning.plan.settings import Layout, PlanSettings
from seap_export.pruning.plan.sparsity import EVEN, Sparsity
from seap_export.pruning.plan.sublayers import KeptHeads, LayerOptions
from seap_export.pruning.scores import LayerScores


def spec_of(heads: int, kv_groups: int, **values: Any) -> ModelSpec:
    return small_spec(heads, kv_groups, 64, layers=2, **{"head_dim": 64, **values})


def options_of(spec: ModelSpec, scores: Sequence[LayerScores] | None = None) -> list[LayerOptions]:
    layer = spec.layers[0]
    alike = [scores_of([1.0] * layer[Attention].num_attention_heads, [1.0] * 64, spec.head_dim)] * 2
    return scored_options(spec, list(scores or alike))


def raised_by_half(dense: LayerOptions) -> set[int]:
    """Heads in a group of the options whose loss is raised, by half."""
    heads, neurons = both(dense)
    preferring = heads.preferring(0.5)
    assert preferring.sets == heads.sets
    assert neurons.preferring(0.5) is neurons
    changed = set()
    for kept, loss, other in zip(heads.sets, preferring.losses, heads.losses, strict=True):
        if loss != other:
            assert loss == pytest.approx(1.5 * other)
            changed.add(len(kept.units) // len(kept.groups))
    return changed


@pytest.mark.parametrize(
    ("heads", "kv_groups", "raised"),
    [
        (9, 3, set()),  # 3 is the dense model's
        (8, 2, {3}),
        (14, 2, {3, 6}),
        (12, 1, {3, 6, 7, 9, 10, 11}),
        (2, 2, set()),
    ],
)
def test_which_numbers_of_heads_cost_more(heads: int, kv_groups: int, raised: set[int]) -> None:
    spec = spec_of(heads, kv_groups)
    for layer in options_of(spec):
        assert raised_by_half(layer) == raised


@pytest.mark.parametrize(
    "values", [{"head_dim": 32}, {"head_dim": 96}, {"model_type": "gemma2", "attn_logit_softcapping": 30.0}]
)
def test_nothing_costs_more_where_the_kernel_takes_no_heads_at_all(values: dict[str, Any]) -> None:
    spec = spec_of(8, 2, **values)
    assert spec.head_dim != 64 or spec.first(Attention).softcap is not None
    for layer in options_of(spec):
        assert raised_by_half(layer) == set()


def planned(spec: ModelSpec, worst: float, tolerance: float, layout: Layout = "per-layer") -> Plan:
    """Of two layers with a group of 4 heads each, one worth `worst` and the others 1; two heads go, and no neuron."""
    scores = [scores_of([1.0, 1.0, 1.0, worst], [1e6] * 64, 64)] * 2
    sensitivity = torch.ones(2, 2, dtype=torch.float64)
    ranking = Ranking(tuple(options_of(spec, scores)), tuple(scores), sensitivity)
    return plan_variant(
        cast(Source, SimpleNamespace(spec=spec, name="m", digest="ab" * 32)),
        cast(TaskMixture, SimpleNamespace(name="a", weights={"a": 1.0}, num_tokens=96)),
        ranking,
        PlanSettings(
            score="wifv",
            sparsity=EVEN if layout == "uniform" else Sparsity("adaptive"),
            align=64,
            compensation="none",
            ridge=1.0,
            layout=layout,
            group_tolerance=tolerance,
        ),
        2 / 13 - 1e-6,
    )


def heads_a_group(plan: Plan) -> list[int]:
    return sorted(len(layer[KeptHeads].heads) // len(layer[KeptHeads].kv_groups) for layer in plan.layers)


@pytest.mark.parametrize(
    ("worst", "tolerance", "expected"),
    [
        (0.9, 0.0, [3, 3]),
        (0.9, 0.04, [3, 3]),  # 2 and 4 lose 6 percent more
        (0.9, 0.06, [2, 4]),
        (0.0, 0.5, [3, 3]),  # 3 and 3 lose nothing
    ],
)
def test_groups_are_cut_to_preferred_sizes_within_the_tolerance(
    worst: float, tolerance: float, expected: list[int]
) -> None:
    plan = planned(spec_of(4, 1), worst, tolerance)
    assert heads_a_group(plan) == expected
    assert plan.settings.group_tolerance == tolerance
    assert plan.achieved_ratio == pytest.approx(2 / 13)
