"""A plan that is chosen by trials is nearer to the dense model, and the same after an interruption."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support.calibration import Killed, compute_in_memory, die_at, mixture_of
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import Plan, PlanSettings, Source, TaskMixture, open_recipe, plan_variant, rank_layers, read_plan

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.pruning.allocation import trials
from seap_export.pruning.allocation.planning import choose_plan
from seap_export.pruning.allocation.texts import draw_texts
from seap_export.pruning.plan.plan import write_plan
from seap_export.pruning.plan.ranked import Ranking

SETTINGS = replace(open_recipe(), trials=9, align=4, min_tokens=0)
Case = tuple[Source, TaskMixture, Ranking]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    work = tmp_path_factory.mktemp("case")
    source = micro_source(work / "dense")
    statistics = mixture_of(source, work / "statistics", {"boolq": random_token_ids(45)})
    (work / "ranking").mkdir()
    return source, statistics, rank_layers(source, statistics, SETTINGS, work / "ranking", compute=compute_in_memory())


def chosen(case: Case, folder: Path, settings: PlanSettings = SETTINGS, ratio: float = 0.5, **others: object) -> Plan:
    folder.mkdir(exist_ok=True)
    return choose_plan(*case, settings, ratio, folder, compute=compute_in_memory(), **others)  # type: ignore[arg-type]


def test_the_best_of_the_plans_that_were_tried(case: Case, tmp_path: Path) -> None:
    lines, units = list[str](), list[object]()
    plan = chosen(case, tmp_path, say=lines.append, on_trial=units.append)
    texts = draw_texts(case[1])
    assert texts is not None
    judge = trials.Trials(case[0], texts, tmp_path, compute_in_memory())
    before, after = judge.divergence(plan_variant(*case, SETTINGS, 0.5)), judge.divergence(plan)
    assert after < before
    assert f"KL of {after:.4f} instead of {before:.4f} nats on {texts.judged_tokens} " in lines[0]
    assert (len(lines), len(units)) == (1, 9)
    assert (plan.settings.trials, plan.method) == (9, "reconstruct")
    assert abs(plan.achieved_ratio - 0.5) < 0.02


@pytest.mark.parametrize(("ratio", "more", "passes"), [(0.5, 0, 1.0), (0.5, 1, 0.0), (0.0, 1, 0.0)])
def test_a_plan_of_too_few_tokens_is_not_distilled_and_says_so(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, more: int, passes: float
) -> None:
    tokens, lines = case[1].num_tokens, list[str]()
    settings = replace(SETTINGS, trials=0, min_tokens=tokens + more)
    plan = chosen(case, tmp_path, settings, ratio, say=lines.append)
    assert (plan.settings.distillation, plan.method) == (passes, "reconstruct")
    assert [line.partition(":")[0] for line in lines] == ["not distilled"] * int(more and ratio > 0)
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    die_at(monkeypatch, trials.Trials, "__init__", 0)  # nothing is tried without need
    for settings in (replace(SETTINGS, trials=0), replace(SETTINGS, compensation="one-shot")):
        expected = plan_variant(*case, settings, ratio)
        assert chosen(case, tmp_path, settings, ratio) == expected
        assert expected.settings.trials == settings.tried
    assert ratio or chosen(case, tmp_path, SETTINGS, ratio) == plan_variant(*case, SETTINGS, ratio)


@pytest.mark.parametrize("call", [0, 1, 5])
def test_interrupted(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    expected = chosen(case, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        die_at(patch, trials.Trials, "divergence", call)
        with pytest.raises(Killed):
            chosen(case, tmp_path / "killed")
    calls = []
    plain = trials.Trials.divergence
    monkeypatch.setattr(trials.Trials, "divergence", lambda self, plan: calls.append(plan) or plain(self, plan))
    assert chosen(case, tmp_path / "killed") == expected
    assert len(calls) == 9 - call
