"""Groups of heads are cut to sizes that CUDA's attention prefers where that loses next to nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support.plans import both, scored_options, scores_of, small_spec
from support.product import Source, TaskMixture

from seap_export.pruning.plan.layer_options import options_from_scores
from seap_export.pruning.plan.make import plan_variant
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.ranked import Ranking
from seap_export.pruning.plan.settings import PlanSettings
from seap_export.pruning.plan.sublayers import KeptHeads


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
def test_which_numbers_of_heads_cost_more(
    heads: int, kv_groups: int, values: dict[str, Any], raised: set[int]
) -> None:
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
def test_groups_are_cut_to_preferred_sizes_within_the_tolerance(
    worst: float, tolerance: float, expected: list[int]
) -> None:
    plan = planned(worst, tolerance)
    assert sorted(len(layer[KeptHeads].heads) for layer in plan.layers) == expected
    assert plan.settings.group_tolerance == tolerance
    assert plan.achieved_ratio == pytest.approx(2 / 13)
