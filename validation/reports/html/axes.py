"""The common parts of all charts: frame, title, description, axes, ticks and scales.

Horizontal positions are percentages and vertical ones pixels, so that a chart fills the available width while its text
keeps its size. Labels of the vertical axis are in the margin to the left of the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from validation.reports.html.markup import Markup, join, tag

_MOST_TICKS = 8


def across(fraction: float) -> str:
    """A horizontal position as a percentage, from a fraction between 0 and 1."""
    return f"{100 * fraction:.2f}%"


def chart(
    title: str,
    description: str,
    height: float,
    marks: Sequence[Markup],
    legend: Sequence[tuple[str, str]] = (),
    *,
    inset: bool = False,
) -> Markup:
    """A figure with its title and a legend of (class, words) above the SVG; `inset` makes room for a vertical axis."""
    keys = [tag("span", tag("i", class_=f"key {name}"), words) for name, words in legend]
    caption = tag("figcaption", tag("b", title), *keys)
    svg = tag("svg", tag("title", title), tag("desc", description), *marks, role="img", height=height)
    return tag("figure", caption, tag("div", svg, class_="plot inset" if inset else "plot"))


def text(words: str, x: str, y: float, anchor: str = "start", class_: str = "") -> Markup:
    """A label whose baseline is at y."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, **({"class_": class_} if class_ else {}))


def line(x1: str, y1: float, x2: str, y2: float, class_: str) -> Markup:
    """A line between two points."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def x_axis(ticks: Sequence[tuple[float, str]], y: float, label: str) -> Markup:
    """A horizontal axis at y: ticks at fractions of the width with their labels, and the axis title below."""
    marks = [line("0%", y, "100%", y, "axis")]
    for fraction, words in ticks:
        anchor = "end" if fraction > 0.97 else "start" if fraction < 0.01 else "middle"
        marks += [
            line(across(fraction), y, across(fraction), y + 4, "axis"),
            text(words, across(fraction), y + 16, anchor),
        ]
    return join([*marks, text(label, "100%", y + 31, "end")])


def y_axis(ticks: Sequence[tuple[float, str]], label: str) -> Markup:
    """A vertical axis: grid lines at heights in pixels with their labels, and the axis title on top."""
    marks = [text(label, "-46", 11)]
    for y, words in ticks:
        marks += [line("0%", y, "100%", y, "grid"), text(words, "-6", y + 4, "end")]
    return join(marks)


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
    """To twelve digits, however small it is."""
    return float(f"{value:.12g}")
