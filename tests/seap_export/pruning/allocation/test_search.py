"""The search finds what is better, tries nothing twice, and goes on where it was interrupted; its directions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from seap_export.common.durable import begin_or_resume
from seap_export.pruning.allocation.search import BestSteps, TrialLog, directions, multipliers, search

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
