"""The common parts of all charts: what a chart consists of, axes, ticks and scales.

Horizontal positions are percentages and vertical ones pixels, so that a chart fills the available width while its text
keeps its size. Labels of the vertical axis are in the margin to the left of the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

_MOST_TICKS = 8


@dataclass(frozen=True)
class Chart:
    """A chart, `height` pixels high, as `shared.html.jinja` frames it."""

    title: str
    description: str
    height: int
    marks: Sequence[Markup]
    legend: Sequence[tuple[str, str]] = ()
    inset: bool = False


def across(fraction: float) -> str:
    """A horizontal position as a percentage, from a fraction between 0 and 1."""
    return f"{100 * fraction:.2f}%"


def text(words: str, x: str, y: float, anchor: str = "start", kind: str = "label") -> Markup:
    """An SVG text at a position `x`, such as `50%`, whose baseline is `y` pixels from the top."""
    place = Markup('<text x="{}" y="{:g}" text-anchor="{}" class="{}">{}</text>')
    return place.format(x, y, anchor, kind, words)


def line(x1: str, y1: float, x2: str, y2: float, kind: str) -> Markup:
    """An SVG line between two points; `kind` is its CSS class."""
    return Markup('<line x1="{}" y1="{:g}" x2="{}" y2="{:g}" class="{}"></line>').format(x1, y1, x2, y2, kind)


def circle(x: float, y: float, radius: float, kind: str, words: str = "") -> Markup:
    """A circle around a point, a fraction of the width from the left; the words are shown to who points at it."""
    told = Markup("<title>{}</title>").format(words) if words else ""
    return Markup('<circle cx="{}" cy="{:g}" r="{:g}" class="{}">{}</circle>').format(across(x), y, radius, kind, told)


def rectangle(left: float, top: float, width: float, height: float, kind: str) -> Markup:
    """A filled rectangle; `left` and `width` are fractions of the width."""
    place = Markup('<rect x="{}" y="{:g}" width="{}" height="{:g}" class="{}"></rect>')
    return place.format(across(left), top, across(width), height, kind)


def x_axis(ticks: Sequence[tuple[float, str]], y: float, label: str) -> list[Markup]:
    """A horizontal axis at y: ticks at fractions of the width with their labels, and the axis title below."""
    marks = [line("0%", y, "100%", y, "axis")]
    for fraction, words in ticks:
        anchor = "end" if fraction > 0.97 else "start" if fraction < 0.01 else "middle"
        marks += [
            line(across(fraction), y, across(fraction), y + 4, "axis"),
            text(words, across(fraction), y + 16, anchor),
        ]
    return [*marks, text(label, "100%", y + 31, "end")]


def y_axis(ticks: Sequence[tuple[float, str]], label: str) -> list[Markup]:
    """A vertical axis: grid lines at heights in pixels with their labels, and the axis title on top."""
    marks = [text(label, "-46", 11)]
    for y, words in ticks:
        marks += [line("0%", y, "100%", y, "grid"), text(words, "-6", y + 4, "end")]
    return marks


def steps(number: int) -> list[int]:
    """The layers that get a label: all, or every second, fifth, tenth ..."""
    step = next(s * 10**power for power in range(9) for s in (1, 2, 5) if number / (s * 10**power) <= _MOST_TICKS)
    return list(range(0, number, step))


def round_ticks(top: float, most: int = 4) -> list[float]:
    """Round numbers from 0 to the first one that is at least `top`, which is positive."""
    rough = top / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= rough * (1 - 1e-9))
    return [_rounded(step * index) for index in range(math.ceil(top / step - 1e-9) + 1)]


def floor_ticks(low: float, high: float) -> list[float]:
    """Round numbers that cover the range from `low` to `high`."""
    step = round_ticks(high - low or 1.0)[1]
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [_rounded(step * index) for index in range(first, max(last, first + 1) + 1)]


def _rounded(value: float) -> float:
    """Rounds a number to twelve significant digits, however small it is."""
    return float(f"{value:.12g}")
