"""Engines run in turn on the same prompts; what is counted, and what is not. No time is asserted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from validation.speed.measure import Cell, Timing, measure_speed


class Recorder:
    """An engine that notes what it is asked."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log = name, log
        self.prompts: list[Sequence[Sequence[int]]] = []

    def prefill(self, prompts: Sequence[Sequence[int]], steps: int) -> None:
        self.log.append((self.name, f"prefill {len(prompts)}x{len(prompts[0])}"))
        self.prompts.append(prompts)

    def step(self) -> None:
        self.log.append((self.name, "step"))


def test_engines_run_in_turn_on_the_same_prompts() -> None:
    log: list[tuple[str, str]] = []
    engines = {name: Recorder(name, log) for name in ("one", "two")}
    cells = [Cell(1, 4), Cell(2, 3)]
    lines: list[str] = []
    timings = measure_speed(engines, cells, vocab_size=50, runs=2, steps=3, on_progress=lines.append)
    turn = [(name, what) for name in engines for what in ("prefill 1x4", "step", "step", "step")]
    assert log[: 3 * len(turn)] == turn * 3  # a warm-up and two runs
    assert len(log) == 2 * 3 * len(turn)
    assert engines["one"].prompts == engines["two"].prompts
    assert all(0 <= token < 50 for prompts in engines["one"].prompts for row in prompts for token in row)
    assert lines == ["batch 1, 4 tokens", "batch 2, 3 tokens"]
    for own in timings.values():
        assert {cell: (len(t.prefills), len(t.steps)) for cell, t in own.items()} == dict.fromkeys(cells, (2, 6))


def test_medians_and_percentiles() -> None:
    timing = Timing([3.0, 1.0, 2.0], [float(number) for number in range(101)])
    assert (timing.prefill_s, timing.step_s, timing.step_p95_s) == (2.0, 50.0, 95.0)
    assert timing.prefill_p95_s == pytest.approx(2.9)


def test_the_steps_of_each_run() -> None:
    timing = Timing([1.0, 1.0], [1.0, 2.0, 9.0, 4.0, 5.0, 6.0])
    assert timing.run_steps == [2.0, 5.0]


@pytest.mark.parametrize("steps", [[], [1.0, 2.0, 3.0]])
def test_steps_that_belong_to_no_run(steps: list[float]) -> None:
    with pytest.raises(ValueError, match="do not make 2 runs"):
        _ = Timing([1.0, 1.0], steps).run_steps


@pytest.mark.parametrize("values", [(0, 1), (1, 0)])
def test_an_empty_cell_is_refused(values: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Cell(*values)
