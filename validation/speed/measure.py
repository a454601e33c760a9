"""Times engines in turn: the same prompts, after a warm-up, one engine at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from validation.runtimes.timing import Pace
from validation.speed.engines import Engine

#: Waiting threads spin for some milliseconds.
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class SpeedCell:
    """A case to time: a prefill of `batch` prompts of `depth` tokens, followed by decode steps."""

    batch: int
    depth: int

    def __post_init__(self) -> None:
        if self.batch < 1 or self.depth < 1:
            raise ValueError("batch and depth must be at least 1")


@dataclass
class Timing:
    """Seconds of every prefill and every decode step of one engine in one cell.

    A run is one prefill followed by decode steps, the same number in every run.
    """

    prefills: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)

    def add(self, pace: Pace) -> None:
        self.prefills.append(pace.first_s)
        self.steps.extend(pace.steps_s)

    @property
    def prefill_s(self) -> float:
        """Median time to the first token, seconds."""
        return statistics.median(self.prefills)

    @property
    def step_s(self) -> float:
        """Median time of a decode step over all runs, seconds."""
        return statistics.median(self.steps)

    @property
    def run_steps(self) -> list[float]:
        """Median time of a decode step in each run.

        Raises:
            ValueError: There are no runs, or the steps cannot be divided among them.
        """
        if not self.prefills or not self.steps or len(self.steps) % len(self.prefills):
            raise ValueError(f"{len(self.steps)} steps cannot be divided among {len(self.prefills)} runs")
        count = len(self.steps) // len(self.prefills)
        return [statistics.median(self.steps[at : at + count]) for at in range(0, len(self.steps), count)]

    @property
    def prefill_p95_s(self) -> float:
        """95th percentile of the time to the first token."""
        return float(np.percentile(self.prefills, 95))

    @property
    def step_p95_s(self) -> float:
        """95th percentile of the time of a decode step."""
        return float(np.percentile(self.steps, 95))


def measure_speed(
    openers: Mapping[str, Callable[[], AbstractContextManager[Engine]]],
    cells: Sequence[SpeedCell],
    *,
    vocab_size: int,
    runs: int,
    steps: int,
    on_progress: Callable[[str], object] = lambda line: None,
) -> dict[str, dict[SpeedCell, Timing]]:
    """Opens every engine again in each run, alone, and times it in every cell after a warm-up.

    Where an engine's memory is placed makes it up to a tenth faster or slower for as long as it is open; opening it
    again makes this variation part of the measurement.

    Args:
        openers: Functions that open an engine, by its name.
        vocab_size: Prompts are random token ids below this, the same for all engines.
        runs: Number of runs of each engine.
        steps: Decode steps of a run, each timed.
        on_progress: Called with a line about each run when it is done.

    Returns:
        The times of each engine in each cell that it takes: one that runs a prompt at a time takes no batches, and one
        whose file takes shorter texts no long prompts.
    """
    timings: dict[str, dict[SpeedCell, Timing]] = {name: {} for name in openers}
    prompts = {
        cell: np.random.default_rng(0).integers(0, vocab_size, (cell.batch, cell.depth)).tolist() for cell in cells
    }
    for run in range(runs):
        for name, opened in openers.items():
            with opened() as engine:
                for cell in cells:
                    if not engine.takes(cell.batch, cell.depth + steps):
                        continue
                    engine.pace(prompts[cell], 1)
                    time.sleep(_PAUSE_SECONDS)
                    timings[name].setdefault(cell, Timing()).add(engine.pace(prompts[cell], steps))
            del engine  # it may hold the model
            on_progress(f"run {run + 1} of {runs}: {name}")
    return timings
