"""Intervals of a median from the order of the runs: which runs they end at, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from validation.speed.interval import COVERAGE, Interval, median_interval, spread


@pytest.mark.parametrize(("count", "ends"), [(5, (1, 5)), (8, (1, 8)), (9, (2, 8)), (15, (4, 12)), (50, (18, 33))])
def test_which_runs_it_ends_at(count: int, ends: tuple[int, int]) -> None:
    """As in tables of the sign test, for a coverage of 15/16."""
    runs = np.random.default_rng(0).permutation(np.arange(1.0, count + 1)).tolist()
    assert median_interval(runs) == Interval(*ends)


@pytest.mark.parametrize("count", [5, 9, 20])
def test_it_holds_the_true_median_as_often_as_it_says(count: int) -> None:
    """Of skewed numbers, as times are."""
    draws = np.random.default_rng(1).lognormal(size=(4000, count))  # with a median of 1
    intervals = [median_interval(runs.tolist()) for runs in draws]
    held = np.mean([interval is not None and interval.low <= 1 <= interval.high for interval in intervals])
    assert COVERAGE - 0.012 < held < 1  # three standard errors


def test_the_spread_is_a_share_of_the_middle() -> None:
    assert spread([8.0, 9.0, 10.0, 11.0, 12.0]) == pytest.approx(0.4)
