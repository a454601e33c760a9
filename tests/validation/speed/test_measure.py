"""Engines run in turn on the same prompts; what is counted, and what is not. No time is asserted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from support.product import Pace

from validation.speed.measure import SpeedCell, measure_speed


class Recorder:
    """An engine that notes what it is asked, and when it is open."""

    def __init__(self, name: str, log: list[tuple[str, str]], prompts: list[Any], takes_batches: bool = True) -> None:
        self.name, self.log, self.prompts, self._takes_batches = name, log, prompts, takes_batches

    def takes(self, rows: int, tokens: int) -> bool:
        return tokens <= 9 and (rows == 1 or self._takes_batches)

    def __enter__(self) -> Recorder:
        self.log.append((self.name, "opened"))
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append((self.name, "closed"))

    def pace(self, prompts: Sequence[Sequence[int]], steps: int) -> Pace:
        self.log.append((self.name, f"{len(prompts)}x{len(prompts[0])} and {steps}"))
        self.prompts.append(prompts)
        return Pace(float(len(self.prompts)), (0.5,) * steps)


def test_engines_are_opened_in_turn_and_run_the_same_prompts() -> None:
    log: list[tuple[str, str]] = []
    prompts: dict[str, list[Any]] = {"one": [], "two": []}
    openers = {name: partial(Recorder, name, log, prompt) for name, prompt in prompts.items()}
    cells = [SpeedCell(1, 4), SpeedCell(2, 3), SpeedCell(1, 10)]  # the last is longer than an engine takes
    lines: list[str] = []
    timings = measure_speed(openers, cells, vocab_size=50, runs=2, steps=3, on_progress=lines.append)
    warm_up, timed = " and 1", " and 3"
    turn = ["opened", *(size + what for size in ("1x4", "2x3") for what in (warm_up, timed)), "closed"]
    assert log == [(name, what) for name in ("one", "two", "one", "two") for what in turn]
    assert prompts["one"] == prompts["two"]
    assert all(0 <= token < 50 for rows in prompts["one"] for row in rows for token in row)
    assert lines == ["run 1 of 2: one", "run 1 of 2: two", "run 2 of 2: one", "run 2 of 2: two"]
    for by_cell in timings.values():
        assert {cell: (len(t.prefills), len(t.steps)) for cell, t in by_cell.items()} == dict.fromkeys(
            cells[:2], (2, 6)
        )
        assert by_cell[cells[0]].prefills == [2.0, 6.0]  # not those of the warm-up
    openers = {name: partial(Recorder, name, [], [], name == "both") for name in ("both", "single")}
    timings = measure_speed(openers, cells, vocab_size=50, runs=1, steps=2)
    assert {name: list(timing) for name, timing in timings.items()} == {"both": cells[:2], "single": cells[:1]}
