"""The search finds what is better and goes on where it was interrupted, on two parts of the texts.

Trials measure what the written model would diverge by; the plan that they choose, and the guess, follow them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.calibration import Killed, compute_in_memory, compute_on_disk, die_at, mixture_of
from support.corpora import random_token_ids
from support.models import mean_divergence, micro_source
from support.plans import micro_plan
from support.product import Compute, PlanSettings, Source, TaskMixture, open_recipe, write_shrunk_model
from support.stand_ins.cuda import pretend_cuda

import seap_export  # noqa: F401 - registers the pruned families
from seap_export.common.durable import begin_or_resume
from seap_export.pruning.allocation import texts as module
from seap_export.pruning.allocation.guess import guess_pruning
from seap_export.pruning.allocation.planning import choose_plan
from seap_export.pruning.allocation.search import BestSteps, TrialLog, directions, multipliers, search
from seap_export.pruning.allocation.texts import TrialTexts, draw_texts
from seap_export.pruning.allocation.trials import Trials
from seap_export.pruning.plan.make import plan_variant, rank_layers
from seap_export.pruning.plan.plan import Plan, read_plan, write_plan
from seap_export.pruning.plan.ranked import Ranking

NAMES = ("depth", "ends", "heads")
BEST = {"depth": 0.75, "ends": -0.5, "heads": 0.0}


def bowl(steps: Mapping[str, float]) -> float:
    return 1.0 + sum((steps[name] - BEST[name]) ** 2 for name in NAMES)


def search_bowl(trials: int) -> tuple[BestSteps, list[Mapping[str, float]]]:
    measured: list[Mapping[str, float]] = []

    def measure(steps: Mapping[str, float]) -> float:
        measured.append(dict(steps))
        return bowl(steps)

    return search(NAMES, lambda steps: tuple(steps.items()), measure, trials), measured


def test_it_finds_the_best_and_stops_by_itself() -> None:
    best, measured = search_bowl(1000)
    assert best.steps == {"depth": 0.75, "ends": -0.5}
    assert (best.before, best.after) == (bowl(dict.fromkeys(NAMES, 0.0)), 1.0)
    assert best.trials == len(measured) < 40
    assert len({tuple(steps.items()) for steps in measured}) == len(measured)
    for trials in (1, 2, 7):
        best, measured = search_bowl(trials)
        assert best.trials == len(measured) == trials
        assert best.after == min(map(bowl, measured)) == bowl(dict.fromkeys(NAMES, 0.0) | best.steps)
    calls: list[object] = []  # equal proposals are measured once
    best = search(NAMES, lambda steps: "the same", lambda steps: calls.append(steps) or 1.0, 50)
    assert (len(calls), best.steps, best.before) == (1, {}, best.after)


def test_a_log_repeats_nothing_that_was_written_whole(tmp_path: Path) -> None:
    path, values = tmp_path / "log", [0.1, 1e-17, 3.0]
    begin_or_resume(tmp_path, {})
    first = TrialLog(path)
    assert [first.next(lambda value=value: value) for value in values[:2]] == values[:2]  # type: ignore[misc]
    path.write_text(path.read_text("utf-8") + "0.2", "utf-8")
    begin_or_resume(tmp_path, {})

    def never() -> float:
        raise AssertionError

    second = TrialLog(path)
    assert [second.next(never), second.next(never), second.next(lambda: 3.0)] == values
    third = TrialLog(path)
    assert [third.next(never) for _ in values] == values


def test_steps_multiply_and_none_change_nothing() -> None:
    for layers in (1, 2, 30):
        assert (multipliers(layers, {}) == np.ones((layers, 2))).all()
        assert all(direction.shape == (layers, 2) for direction in directions(layers).values())
    factors = multipliers(12, {"depth": 1.0})
    assert factors[-1] / factors[0] == pytest.approx(np.exp([2.0, 2.0]))
    assert np.divide(*multipliers(12, {"heads": 1.0}).T) == pytest.approx(np.e)


class _Given:
    """Stands for a calibration: its tokens alone."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts = texts
        self.record = self
        self.source_sha256 = "same"

    def token_ids(self) -> list[list[int]]:
        return [list(ids) for ids in self.texts]


def mixture(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> TaskMixture:
    given = {task: _Given(texts) for task, texts in tasks.items()}
    return TaskMixture("tried", dict.fromkeys(tasks, 1.0) | weights, given)  # type: ignore[arg-type]


def texts_of(statistics: TaskMixture) -> TrialTexts:
    texts = draw_texts(statistics)
    assert texts is not None
    return texts


def drawn(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> TrialTexts:
    return texts_of(mixture(tasks, **weights))


def test_parts_are_apart_and_do_not_depend_on_the_order() -> None:
    texts = random_token_ids(60)
    parts = drawn({"a": texts})
    assert parts == drawn({"a": texts[::-1]}) == drawn({"a": [*texts, *texts]})
    fitted, judged = ({ids for ids, _ in part} for part in (parts.fitted, parts.judged))
    assert not fitted & judged
    assert fitted | judged <= {tuple(ids) for ids in texts}
    total = sum(map(len, {tuple(ids) for ids in texts}))
    assert total / 4 <= sum(map(len, judged)) < total / 4 + 30
    # a text of two tasks is in one part only, and a single text is too few
    parts = drawn({"a": texts, "b": [*texts, *random_token_ids(40, seed=3)]})
    every = [ids for ids, _ in (*parts.fitted, *parts.judged)]
    assert len(every) == len(set(every))
    for tasks in ({"a": [[1, 2, 3]]}, {"a": texts, "b": [[4], [4]]}):
        assert draw_texts(mixture(tasks)) is None


def test_long_corpora_give_a_few_thousand_tokens() -> None:
    texts = random_token_ids(40, longest=700)
    parts = drawn({"a": texts})
    fitted, judged = (sum(len(ids) for ids, _ in part) for part in (parts.fitted, parts.judged))
    assert module.FITTED_TOKENS <= fitted < module.FITTED_TOKENS + module._LENGTH
    assert module.JUDGED_TOKENS <= judged == parts.judged_tokens < module.JUDGED_TOKENS + module._LENGTH
    assert all(len(ids) <= module._LENGTH for ids, _ in (*parts.fitted, *parts.judged))


def test_tasks_count_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FITTED_TOKENS", 400)
    tasks = {"a": random_token_ids(80, seed=1), "b": random_token_ids(30, seed=2)}
    parts = drawn(tasks, a=3.0)
    first = {tuple(ids) for ids in tasks["a"]}
    for part in (parts.fitted, parts.judged):
        of_first = sum(len(ids) * weight for ids, weight in part if ids in first)
        assert of_first == pytest.approx(0.75)
        assert sum(len(ids) * weight for ids, weight in part) == pytest.approx(1.0)
    tokens = {task: sum(len(ids) for ids, _ in parts.fitted if (ids in first) is (task == "a")) for task in tasks}
    assert parts.effective_tokens == pytest.approx(1 / (0.75**2 / tokens["a"] + 0.25**2 / tokens["b"]))


SETTINGS = replace(open_recipe(), trials=9, align=4, min_tokens=0, fresh_tokens=0)
COMPUTE = compute_in_memory()
Case = tuple[Source, TaskMixture, Ranking]


#: One without norms after a sublayer, one with, and one with those of sums; and multipliers, which scale what is
#: written.
@pytest.mark.parametrize("variation", ["llama-gqa", "gemma3", "gemma4-experts", "granite"])
def test_it_is_the_divergence_of_the_written_model(variation: str, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "dense", variation)
    statistics = mixture_of(source, tmp_path / "all", {"boolq": random_token_ids(30)})
    texts, plan, folder = texts_of(statistics), micro_plan(source, "sequential"), tmp_path / "variant"
    folder.mkdir()
    fitted = mixture_of(source, tmp_path / "fitted", {"boolq": [list(ids) for ids, _ in texts.fitted]})
    write_shrunk_model(source, plan, fitted, folder)
    expected = mean_divergence(tmp_path / "dense", folder, [list(ids) for ids, _ in texts.judged])
    tried = Trials(source, texts, tmp_path, COMPUTE)
    assert tried.divergence(plan) == pytest.approx(expected, rel=1e-3)
    assert tried.divergence(micro_plan(source, "sequential", ridge=1e9)) != pytest.approx(expected, rel=1e-2)
    for place, room in (("disk", 0), ("memory", 1)):  # wherever it is computed
        (tmp_path / place).mkdir()
        compute = COMPUTE if room else compute_on_disk(source)
        assert Trials(source, texts, tmp_path / place, compute).divergence(plan) == tried.divergence(plan)
        assert bool(list((tmp_path / place).iterdir())) is not bool(room)
    if variation == "gemma4-experts":
        return  # the stand-in for CUDA knows no moves to where another tensor is
    with pretend_cuda() as device:
        on_gpu = Compute(device, memory=2**40, device_memory=2**40, batch_tokens=64)
        assert Trials(source, texts, tmp_path, on_gpu).divergence(plan) == pytest.approx(expected, rel=1e-3)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    work = tmp_path_factory.mktemp("case")
    source = micro_source(work / "dense")
    statistics = mixture_of(source, work / "statistics", {"boolq": random_token_ids(45)})
    (work / "ranking").mkdir()
    return source, statistics, rank_layers(source, statistics, SETTINGS, work / "ranking", compute=COMPUTE)


def chosen(case: Case, folder: Path, settings: PlanSettings = SETTINGS, ratio: float = 0.5, **others: object) -> Plan:
    folder.mkdir(exist_ok=True)
    return choose_plan(*case, settings, ratio, folder, compute=COMPUTE, **others)  # type: ignore[arg-type]


def test_the_best_of_the_plans_that_were_tried(case: Case, tmp_path: Path) -> None:
    lines, units = list[str](), list[object]()
    plan = chosen(case, tmp_path, say=lines.append, on_trial=units.append)
    texts = texts_of(case[1])
    judge = Trials(case[0], texts, tmp_path, COMPUTE)
    before, after = judge.divergence(plan_variant(*case, SETTINGS, 0.5)), judge.divergence(plan)
    assert after < before
    assert f"KL of {after:.4f} instead of {before:.4f} nats on {texts.judged_tokens} " in lines[0]
    assert (len(lines), len(units)) == (1, 9)
    assert (plan.settings.trials, plan.method) == (9, "reconstruct")
    assert abs(plan.achieved_ratio - 0.5) < 0.02


@pytest.mark.parametrize(("ratio", "more", "passes"), [(0.5, 0, 1.0), (0.5, 1, 0.0), (0.0, 1, 0.0)])
def test_a_plan_of_too_few_tokens_is_not_distilled(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, more: int, passes: float
) -> None:
    tokens, lines = case[1].num_tokens, list[str]()
    settings = replace(SETTINGS, trials=0, min_tokens=tokens + more)
    plan = chosen(case, tmp_path, settings, ratio, say=lines.append)
    assert (plan.settings.distillation, plan.method) == (passes, "reconstruct")
    assert [line.partition(":")[0] for line in lines] == ["not distilled"] * int(more and ratio > 0)
    write_plan(plan, tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plan
    die_at(monkeypatch, Trials, "__init__", 0)  # nothing is tried without need
    for settings in (replace(SETTINGS, trials=0), replace(SETTINGS, compensation="one-shot")):
        expected = plan_variant(*case, settings, ratio)
        assert chosen(case, tmp_path, settings, ratio) == expected
        assert expected.settings.trials == settings.tried
    assert ratio or chosen(case, tmp_path, SETTINGS, ratio) == plan_variant(*case, SETTINGS, ratio)


@pytest.mark.parametrize("call", [0, 1, 5])
def test_interrupted(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    expected = chosen(case, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        die_at(patch, Trials, "divergence", call)
        with pytest.raises(Killed):
            chosen(case, tmp_path / "killed")
    calls = []
    plain = Trials.divergence
    monkeypatch.setattr(Trials, "divergence", lambda self, plan: calls.append(plan) or plain(self, plan))
    assert chosen(case, tmp_path / "killed") == expected
    assert len(calls) == 9 - call


def test_pruning_costs_what_trials_have_less_what_more_tokens_gain(case: Case, tmp_path: Path) -> None:
    units, settings = list[object](), replace(SETTINGS, min_tokens=open_recipe().min_tokens)
    plain = guess_pruning(*case, settings, [0.2, 0.5], tmp_path, COMPUTE, units.append)
    assert len(units) == 2
    judge = Trials(case[0], texts_of(case[1]), tmp_path, COMPUTE)
    found = [judge.divergence(plan_variant(*case, SETTINGS, ratio)) for ratio in (0.2, 0.5)]
    assert plain == [(0.2, pytest.approx(found[0])), (0.5, pytest.approx(found[1]))]
    fresh = guess_pruning(*case, replace(settings, fresh_tokens=16_384), [0.2], tmp_path, COMPUTE)
    assert fresh == [(0.2, pytest.approx(found[0] * 0.9**2 * 0.85))]  # two doublings, and distilled
    single = mixture_of(case[0], tmp_path / "single", {"a": random_token_ids(1)})  # which tells nothing
    assert guess_pruning(case[0], single, case[2], SETTINGS, [0.2], tmp_path, COMPUTE) == []
