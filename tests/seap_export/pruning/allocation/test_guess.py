"""What is guessed of pruning: what trials have, less what is still to come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.calibration import compute_in_memory, mixture_of
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import open_recipe, plan_variant, rank_layers

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.pruning.allocation.guess import guess_pruning
from seap_export.pruning.allocation.texts import draw_texts
from seap_export.pruning.allocation.trials import Trials

SETTINGS = replace(open_recipe(), align=4, fresh_tokens=0)
COMPUTE = compute_in_memory()


def test_pruning_costs_what_trials_have_less_what_more_tokens_gain(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "dense")
    statistics = mixture_of(source, tmp_path / "all", {"a": random_token_ids(45)})
    (tmp_path / "ranking").mkdir()
    ranking = rank_layers(source, statistics, SETTINGS, tmp_path / "ranking", compute=COMPUTE)
    texts, units = draw_texts(statistics), list[object]()
    assert texts is not None
    case = source, statistics, ranking
    plain = guess_pruning(*case, SETTINGS, [0.2, 0.5], tmp_path, COMPUTE, units.append)
    assert len(units) == 2
    trials = Trials(source, texts, tmp_path, COMPUTE)
    found = [trials.divergence(plan_variant(*case, SETTINGS, ratio)) for ratio in (0.2, 0.5)]
    assert plain == [(0.2, pytest.approx(found[0])), (0.5, pytest.approx(found[1]))]
    fresh = guess_pruning(*case, replace(SETTINGS, fresh_tokens=16_384), [0.2], tmp_path, COMPUTE)
    assert fresh == [(0.2, pytest.approx(found[0] * 0.9**2 * 0.85))]  # two doublings, and distilled
    single = mixture_of(source, tmp_path / "single", {"a": random_token_ids(1)})  # which tells nothing
    assert guess_pruning(source, single, ranking, SETTINGS, [0.2], tmp_path, COMPUTE) == []
