"""The divergence of a plan that is tried is that of the model which the same texts would give; so is a guess."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.calibration import compute_in_memory, compute_on_disk, mixture_of
from support.corpora import random_token_ids
from support.models import mean_divergence, micro_source
from support.plans import micro_plan
from support.product import Compute, open_recipe, plan_variant, rank_layers, write_shrunk_model
from support.stand_ins.cuda import pretend_cuda

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.pruning.allocation.guess import guess_pruning
from seap_export.pruning.allocation.texts import draw_texts
from seap_export.pruning.allocation.trials import Trials

TEXTS = random_token_ids(30)
#: One without norms after a sublayer, one with, and one with those of sums; and multipliers, which scale what is
#: written.
FAMILIES = ("llama-gqa", "gemma3", "gemma4-experts", "granite")


@pytest.mark.parametrize("variation", FAMILIES)
def test_it_is_the_divergence_of_the_written_model(variation: str, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "dense", variation)
    statistics = mixture_of(source, tmp_path / "all", {"boolq": TEXTS})
    texts = draw_texts(statistics)
    assert texts is not None
    plan, folder = micro_plan(source, "sequential"), tmp_path / "variant"
    folder.mkdir()
    fitted = mixture_of(source, tmp_path / "fitted", {"boolq": [list(ids) for ids, _ in texts.fitted]})
    write_shrunk_model(source, plan, fitted, folder)
    expected = mean_divergence(tmp_path / "dense", folder, [list(ids) for ids, _ in texts.judged])
    trials = Trials(source, texts, tmp_path, compute_in_memory())
    assert trials.divergence(plan) == pytest.approx(expected, rel=1e-3)
    assert trials.divergence(micro_plan(source, "sequential", ridge=1e9)) != pytest.approx(expected, rel=1e-2)
    for place, room in (("disk", 0), ("memory", 1)):  # wherever it is computed
        (tmp_path / place).mkdir()
        compute = compute_in_memory() if room else compute_on_disk(source)
        assert Trials(source, texts, tmp_path / place, compute).divergence(plan) == trials.divergence(plan)
        assert bool(list((tmp_path / place).iterdir())) is not bool(room)
    if variation == "gemma4-experts":
        return  # the stand-in for CUDA knows no moves to where another tensor is
    with pretend_cuda() as device:
        on_gpu = Compute(device, memory=2**40, device_memory=2**40, batch_tokens=64)
        assert Trials(source, texts, tmp_path, on_gpu).divergence(plan) == pytest.approx(expected, rel=1e-3)


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
