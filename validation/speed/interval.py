"""A confidence interval for the median of a few runs, based on their order alone.

Whatever the distribution of independent runs, each falls below the true median with probability 1/2. So the median is
outside the range from the k-th smallest to the k-th largest of n runs with probability 2 P(B < k), where B is the
number of heads of n fair coins. This is exact for any n; a bootstrap of five values covers less than it claims and
needs a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: The range of five runs contains the true median in 15 of 16 cases; with more runs, inner values suffice.
COVERAGE = 15 / 16
FEWEST_RUNS = 5


@dataclass(frozen=True)
class Interval:
    """A range that contains the true value with a probability of at least `COVERAGE`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} must not be above high {self.high}")

    def including(self, value: float) -> Interval:
        """The interval, widened if necessary to contain a value."""
        return Interval(min(self.low, value), max(self.high, value))


def median_interval(runs: Sequence[float]) -> Interval | None:
    """The narrowest range between two runs, equally far from both ends, that covers the true median.

    Args:
        runs: One value per run, in any unit.

    Returns:
        None with fewer than `FEWEST_RUNS` runs, for which no range has the required coverage.
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


def speedup_interval(measured: float, dense: Sequence[float], variant: Sequence[float]) -> Interval | None:
    """The interval around a speed-up, from one time per run of both models, which ran in turn.

    Args:
        measured: Median of the dense model / median of the variant.
        dense: Times of the dense model.
        variant: Times of the variant, in the order of the same runs.

    Returns:
        None if there are too few runs.
    """
    interval = median_interval([before / after for before, after in zip(dense, variant, strict=True)])
    return interval and interval.including(measured)


def spread(runs: Sequence[float]) -> float | None:
    """The width of `median_interval` as a share of its middle; None if there is no interval."""
    interval = median_interval(runs)
    return None if interval is None else (interval.high - interval.low) / ((interval.high + interval.low) / 2)
