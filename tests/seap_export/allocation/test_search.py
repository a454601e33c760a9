"""The search finds what is better, tries nothing twice, and goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from seap_export.allocation.search import Found, TrialLog, search

NAMES = ("depth", "ends", "heads")
BEST = {"depth": 0.75, "ends": -0.5, "heads": 0.0}


def bowl(steps: Mapping[str, float]) -> float:
    return 1.0 + sum((steps[name] - BEST[name]) ** 2 for name in NAMES)


def found(trials: int) -> tuple[Found, list[Mapping[str, float]]]:
    measured: list[Mapping[str, float]] = []

    def measure(steps: Mapping[str, float]) -> float:
        measured.append(dict(steps))
        return bowl(steps)

    return search(NAMES, lambda steps: tuple(steps.items()), measure, trials), measured


def test_it_finds_the_best_and_stops_by_itself() -> None:
    own, measured = found(1000)
    assert own.steps == {"depth": 0.75, "ends": -0.5}
    assert (own.before, own.after) == (bowl(dict.fromkeys(NAMES, 0.0)), 1.0)
    assert own.trials == len(measured) < 40
    assert len({tuple(steps.items()) for steps in measured}) == len(measured)


@pytest.mark.parametrize("trials", [1, 2, 7])
def test_it_keeps_the_best_of_few(trials: int) -> None:
    own, measured = found(trials)
    assert own.trials == len(measured) == trials
    assert own.after == min(map(bowl, measured))
    assert bowl(dict.fromkeys(NAMES, 0.0) | own.steps) == own.after


def test_equal_proposals_are_measured_once() -> None:
    calls = []
    own = search(NAMES, lambda steps: "the same", lambda steps: calls.append(steps) or 1.0, 50)
    assert (len(calls), own.steps, own.before) == (1, {}, own.after)


def test_a_log_repeats_nothing_that_was_written_whole(tmp_path: Path) -> None:
    path, values = tmp_path / "log", [0.1, 1e-17, 3.0]
    first = TrialLog(path)
    assert [first.next(lambda value=value: value) for value in values[:2]] == values[:2]  # type: ignore[misc]
    path.write_text(path.read_text("utf-8") + "0.2", "utf-8")

    def never() -> float:
        raise AssertionError

    second = TrialLog(path)
    assert [second.next(never), second.next(never), second.next(lambda: 3.0)] == values
    third = TrialLog(path)
    assert [third.next(never) for _ in values] == values
