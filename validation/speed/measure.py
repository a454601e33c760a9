"""Timing engines in turn: the same prompts, warmed up, one after the other in every run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from validation.speed.engines import Engine

__all__ = ["Cell", "Timing", "measure_speed"]

#: Idle threads of the engine before spin for some milliseconds; the next one should not meet them.
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class Cell:
    """What is timed: `batch` prompts of `depth` tokens, then decode steps behind them."""

    batch: int
    depth: int

    def __post_init__(self) -> None:
        if self.batch < 1 or self.depth < 1:
            raise ValueError("a batch has at least one prompt of at least one token")


@dataclass
class Timing:
    """Seconds of every prefill and of every decode step of one engine in one cell.

    A run is one prefill and the steps behind it, as many in every run.
    """

    prefills: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    @property
    def prefill_s(self) -> float:
        """Median time to the first token."""
        return statistics.median(self.prefills)

    @property
    def step_s(self) -> float:
        """Median time of a decode step."""
        return statistics.median(self.steps)

    @property
    def run_steps(self) -> list[float]:
        """Median time of a decode step in each run.

        Raises:
            ValueError: There are no runs, or their steps cannot be told apart.
        """
        if not self.prefills or not self.steps or len(self.steps) % len(self.prefills):
            raise ValueError(f"{len(self.steps)} steps do not make {len(self.prefills)} runs")
        count = len(self.steps) // len(self.prefills)
        return [statistics.median(self.steps[at : at + count]) for at in range(0, len(self.steps), count)]

    @property
    def prefill_p95_s(self) -> float:
        """95th percentile of the time to the first token."""
        return float(np.percentile(self.prefills, 95))

    @property
    def step_p95_s(self) -> float:
        """95th percentile of a decode step."""
        return float(np.percentile(self.steps, 95))


def measure_speed(
    engines: Mapping[str, Engine],
    cells: Sequence[Cell],
    *,
    vocab_size: int,
    runs: int,
    steps: int,
    warm_up: int = 1,
    on_progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[Cell, Timing]]:
    """Times every engine in every cell.

    Args:
        engines: By name; all of them stay open.
        cells: What to time.
        vocab_size: Prompts are random tokens below it, the same for all engines.
        runs: Counted runs of each engine in each cell.
        steps: Decode steps of a run, each timed.
        warm_up: Runs that are not counted.
        on_progress: Called with a line about each cell before it is timed.
    """
    timings: dict[str, dict[Cell, Timing]] = {name: {} for name in engines}
    for cell in cells:
        on_progress(f"batch {cell.batch}, {cell.depth} tokens")
        prompts = np.random.default_rng(0).integers(0, vocab_size, (cell.batch, cell.depth)).tolist()
        for own in timings.values():
            own[cell] = Timing()
        for run in range(warm_up + runs):
            for name, engine in engines.items():
                time.sleep(_PAUSE_SECONDS)
                timing = timings[name][cell] if run >= warm_up else Timing()
                _time(engine, prompts, steps, timing)
    return timings


def _time(engine: Engine, prompts: Sequence[Sequence[int]], steps: int, timing: Timing) -> None:
    start = time.perf_counter()
    engine.prefill(prompts, steps)
    timing.prefills.append(time.perf_counter() - start)
    for _ in range(steps):
        start = time.perf_counter()
        engine.step()
        timing.steps.append(time.perf_counter() - start)
