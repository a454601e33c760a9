from __future__ import annotations

import math

import pytest

from validation.reports import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.inf, "not finite"),
        (0.0, "0"),
        (0.012345, "0.0123"),
        (1.5, "1.5"),
        (123.456, "123"),
        (9999.0, "10000"),
        (9994.0, "9990"),
        (61350.5, "6.1e4"),
        (2.2e-11, "2.2e-11"),
        (1e-5, "1e-5"),
        (-0.5, "-0.5"),
    ],
)
def test_figure(value: float | None, text: str) -> None:
    assert numbers.figure(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.2, "20%"), (0.2013, "20.1%"), (1.0, "100%"), (0.99999, ">99.9%"), (0.9996, ">99.9%"), (0, "0%")],
)
def test_percent_is_whole_only_where_it_is(value: float | None, text: str) -> None:
    assert numbers.percent(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (812, "812 B"),
        (812_345, "812 kB"),
        (9_996_000, "10.0 MB"),
        (53_806_000, "53.8 MB"),
        (999_999_999, "1000 MB"),
        (1_340_000_000, "1.34 GB"),
    ],
)
def test_megabytes(value: int | None, text: str) -> None:
    assert numbers.megabytes(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0938, 0.0062, "0.094 ± 0.006"),
        (0.0938, 0.0014, "0.0938 ± 0.0014"),
        (0.37, 0.097, "0.37 ± 0.10"),
        (12.3, 3.2, "12 ± 3"),
        (2.2e-11, 1.4e-12, "2.2e-11 ± 1.4e-12"),
        (0.0938, None, "0.0938"),
        (0.0938, 0.0, "0.0938 ± 0"),
    ],
)
def test_a_standard_error_sets_the_digits(value: float, error: float | None, text: str) -> None:
    assert numbers.with_error(value, error) == text
