"""How far the median of a few runs can be trusted: an interval from their order alone.

Whatever the distribution of independent runs, each lies below their true median with probability 1/2. So the true
median lies outside the range from the k-th smallest to the k-th largest of n runs with probability 2 P(B < k), where
B is the number of heads of n fair coins. That is exact for five runs and for fifty; a bootstrap of five values covers
less than it claims, and needs a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["COVERAGE", "FEWEST_RUNS", "Interval", "median_interval", "spread"]

#: The range of five runs holds the true median in 15 cases of 16; more runs give the inner values that do so too.
COVERAGE = 15 / 16
FEWEST_RUNS = 5


@dataclass(frozen=True)
class Interval:
    """A range that holds the true value in `COVERAGE` of all cases, or more."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"no interval goes from {self.low} to {self.high}")

    def including(self, value: float) -> Interval:
        """The same interval, made wide enough to hold a value."""
        return Interval(min(self.low, value), max(self.high, value))


def median_interval(runs: Sequence[float]) -> Interval | None:
    """The narrowest range between two of the runs, equally far from both ends, that covers their true median.

    Args:
        runs: One figure of each run, in any unit.

    Returns:
        None where there are fewer than `FEWEST_RUNS`: no range of theirs covers it often enough.
    """
    count = len(runs)
    if count < FEWEST_RUNS:
        return None
    ordered = sorted(runs)
    outside, inner = 2 * 0.5**count, 0
    while True:
        outside += 2 * math.comb(count, inner + 1) * 0.5**count
        if outside > 1 - COVERAGE:
            return Interval(ordered[inner], ordered[count - 1 - inner])
        inner += 1


def spread(runs: Sequence[float]) -> float | None:
    """The width of `median_interval` as a share of its middle; None where there is none."""
    interval = median_interval(runs)
    return None if interval is None else (interval.high - interval.low) / ((interval.high + interval.low) / 2)
