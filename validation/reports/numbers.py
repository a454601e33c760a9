"""Formats numbers for people: two or three digits, a unit, a dash for a missing value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from validation.estimate import wilson

#: Shown for a missing value.
NOTHING = "–"


def figure(value: float | None) -> str:
    """Three digits, or two and an exponent for very small or large numbers: 0.0123, 1.2e-5."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{float(f'{value:.3g}'):g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def percent(value: float | None) -> str:
    """A fraction as a percentage with one decimal; less than the whole never reads as 100%."""
    if value is None:
        return NOTHING
    text = f"{value:.1%}".replace(".0%", "%")
    return ">99.9%" if text == "100%" and value < 1 else text


def ratio(value: float | None) -> str:
    """A ratio that should be close to 1, with four decimals."""
    return NOTHING if value is None else f"{value:.4f}"


def megabytes(number: int | None) -> str:
    """A size in bytes as kB, MB or GB (powers of 1000)."""
    return NOTHING if number is None else _with_unit(number, ("GB", "MB", "kB", "B"))


def count(number: int | None) -> str:
    """A number of parameters, in thousands (k), millions (M) or billions (B)."""
    return NOTHING if number is None else _with_unit(number, ("B", "M", "k", ""))


def times(value: float) -> str:
    """A speed-up, without its sign, with two decimals below 10: 1.20, 12.5."""
    return f"{value:.2f}" if value < 10 else figure(value)


def signed_with_error(value: float, error: float | None) -> str:
    """A difference and its standard error: +0.094 ± 0.006, −0.01."""
    return f"{'−' if value < 0 else '+'}{with_error(abs(value), error)}"


def percent_with_error(value: float | None, error: float | None, *, signed: bool = False) -> str:
    """A fraction and its standard error as percentages: 88.1% ± 2.3%."""
    if value is None:
        return NOTHING
    sign = ("−" if value < 0 else "+") if signed else ""
    return f"{sign}{percent(abs(value))}{'' if error is None else f' ± {percent(error)}'}"


def with_error(value: float, error: float | None) -> str:
    """A value and its standard error, which has one digit, or two if the first is 1: 0.094 ± 0.006."""
    if not error or not math.isfinite(error) or value < 1e-3:
        return figure(value) if error is None else f"{figure(value)} ± {figure(error)}"
    mantissa, exponent = f"{error:.1e}".split("e")
    decimals = max(0, (2 if mantissa.startswith("1") else 1) - 1 - int(exponent))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def accuracy(share: float | None, number: int) -> tuple[str, str]:
    """The share of right answers to so many questions, and its interval, in words; dashes for a missing one."""
    if share is None:
        return NOTHING, NOTHING
    return percent(share), " to ".join(f"{100 * end:.0f}" for end in wilson(share, number)) + "%"


def milliseconds(value: float | None) -> str:
    """A time with its unit, ms; a dash if it is missing."""
    return NOTHING if value is None else f"{figure(value)} ms"


def _with_unit(number: int, units: Sequence[str]) -> str:
    """A number in the first of the units, for 1e9, 1e6, 1e3 and 1, that is not larger than the number."""
    for unit, size in zip(units, (1e9, 1e6, 1e3), strict=False):
        if number >= size:
            return f"{_three(number / size)} {unit}"
    return f"{number} {units[-1]}".rstrip()


def _three(value: float) -> str:
    """A number of at least 1 with three significant digits or all before the point, without an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
