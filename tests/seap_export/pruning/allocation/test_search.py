"""The search finds what is better and goes on where it was interrupted, on two parts of the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from support.corpora import random_token_ids
from support.product import TaskMixture

from seap_export.common.durable import begin_or_resume
from seap_export.pruning.allocation import texts as module
from seap_export.pruning.allocation.search import BestSteps, TrialLog, directions, multipliers, search
from seap_export.pruning.allocation.texts import TrialTexts, draw_texts

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


def drawn(tasks: Mapping[str, Sequence[Sequence[int]]], **weights: float) -> TrialTexts:
    texts = draw_texts(mixture(tasks, **weights))
    assert texts is not None
    return texts


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
