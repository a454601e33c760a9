"""The charts of a page as SVG: bars, columns by layer, errors on a logarithmic scale, intervals with limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from validation.reports.html.axes import across, chart, floor_ticks, line, round_ticks, steps, text, x_axis, y_axis
from validation.reports.html.markup import Markup, tag
from validation.reports.numbers import figure, with_error

_BELOW = 38  # pixels for a horizontal axis, its ticks and its label
_ABOVE = 20  # pixels for the label of a vertical axis
_ROW = 38  # pixels for a bar and the line of text above it
_COLUMNS = 96
_ERRORS = 150
#: A limit beyond this many times the largest value would flatten the bars; it is mentioned but not drawn.
_FURTHEST_LIMIT = 4
_MOST_DECADES = 5


@dataclass(frozen=True)
class Bar:
    """A bar: its label, its length (not negative) and standard error, and the class that sets its colour."""

    label: str
    value: float
    kind: str
    limit: float | None = None
    error: float | None = None

    @property
    def words(self) -> str:
        """The value and its error."""
        return with_error(self.value, self.error)


@dataclass(frozen=True)
class JudgedFigure:
    """A figure with its limit and, if there is one, its confidence interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    limit: float
    verdict: str


@dataclass(frozen=True)
class ErrorPoint:
    """The relative error of a tensor, in the order of computation; None if it is not finite."""

    name: str
    layer: int | None
    error: float | None


def bars(title: str, unit: str, rows: Sequence[Bar], legend: Sequence[tuple[str, str]]) -> Markup:
    """Horizontal bars from 0, each below its label and value; a dashed line marks a bar's limit."""
    largest = max((row.value for row in rows), default=0.0)
    near = [row.limit for row in rows if row.limit is not None and row.limit <= _FURTHEST_LIMIT * largest]
    ticks = round_ticks(max([largest, *near]) or 1.0)
    marks = []
    for index, row in enumerate(rows):
        top = index * _ROW
        marks.append(text(f"{row.label}: {row.words} {unit}", "0%", top + 12))
        marks.append(_rect(0.0, top + 19, row.value / ticks[-1], 12, row.kind))
        if row.limit is not None and row.limit <= ticks[-1]:
            marks.append(_limit(row.limit / ticks[-1], top))
    bottom = len(rows) * _ROW
    marks.append(x_axis([(tick / ticks[-1], figure(tick)) for tick in ticks], bottom, unit))
    words = "; ".join(f"{row.label} {row.words}" for row in rows)
    return chart(title, f"Bars in {unit}: {words}.", bottom + _BELOW, marks, legend)


def columns(title: str, unit: str, series: Sequence[tuple[str, str, Sequence[float]]], top: float) -> Markup:
    """Columns by layer for one or two series of (class, words, values), the second narrower and in front.

    The axis reaches at least to `top`.
    """
    largest = max([top, *(value for *_, values in series for value in values)])
    ticks = round_ticks(largest or 1.0, 2)
    bottom, number = _ABOVE + _COLUMNS, len(series[0][2])
    heights = [(bottom - _COLUMNS * tick / ticks[-1], figure(tick)) for tick in ticks]
    marks = [y_axis(heights, unit)]
    for (kind, _, values), width in zip(series, (0.8, 0.4), strict=False):
        for layer, value in enumerate(values):
            height = _COLUMNS * value / ticks[-1]
            left = (layer + (1 - width) / 2) / number
            marks.append(_rect(left, bottom - height, width / number, height, kind))
    marks.append(x_axis([((layer + 0.5) / number, str(layer)) for layer in steps(number)], bottom, "layer"))
    spans = "; ".join(f"{words} from {figure(min(values))} to {figure(max(values))}" for _, words, values in series)
    legend = [(kind, words) for kind, words, _ in series] if len(series) > 1 else []
    return chart(title, f"{number} layers: {spans} ({unit}).", bottom + _BELOW, marks, legend, inset=True)


def errors(title: str, taps: Sequence[ErrorPoint], first: int | None, first_words: str) -> Markup:
    """The error of each tap on a logarithmic scale; marks and names the first one that diverges.

    Values that are not finite are in a separate row at the top, errors of 0 at the bottom.
    """
    finite = [tap.error for tap in taps if tap.error is not None and tap.error > 0]
    low = math.floor(math.log10(min(finite, default=1e-7)))
    high = max(math.ceil(math.log10(max(finite, default=1.0))), low + 1)
    lost = any(tap.error is None for tap in taps)
    start = _ABOVE + (20 if first is not None else 0) + (20 if lost else 0)
    bottom = start + _ERRORS
    stride = math.ceil((high - low) / _MOST_DECADES)

    def height(error: float | None) -> float:
        if error is None:
            return start - 12
        share = (math.log10(error) - low) / (high - low) if error > 0 else 0.0
        return bottom - _ERRORS * share

    centres = [(index + 0.5) / len(taps) for index in range(len(taps))]
    points = [(x, height(tap.error)) for x, tap in zip(centres, taps, strict=True)]
    decades = [(height(10.0**power), f"1e{power}") for power in range(low, high + 1, stride)]
    marks = [y_axis([*decades, *([(start - 12, "NaN, Inf")] if lost else [])], "relative error")]
    if first is not None:
        x, at = points[first]
        marks.append(line(across(x), _ABOVE + 16, across(x), at, "pointer"))
        marks.append(text(first_words, across(x), _ABOVE + 12, "start" if x < 0.5 else "end", "first"))
    pairs = zip(zip(points, taps, strict=True), zip(points[1:], taps[1:], strict=True), strict=False)
    for ((x1, y1), left), ((x2, y2), right) in pairs:
        if left.error is not None and right.error is not None:
            marks.append(line(across(x1), y1, across(x2), y2, "path"))
    for index, ((x, y), tap) in enumerate(zip(points, taps, strict=True)):
        words = f"{tap.name}: {'not finite' if tap.error is None else figure(tap.error)}"
        kind, radius = ("first", 5) if index == first else ("lost" if tap.error is None else "a", 2.5)
        marks.append(tag("circle", tag("title", words), cx=across(x), cy=y, r=radius, class_=kind))
    marks.append(x_axis(_layer_ticks(taps, centres), bottom, "layer, in the order of computation"))
    told = f"The first to diverge: {first_words}." if first is not None else "None diverges by itself."
    said = f"{len(taps)} tensors in the order of computation. {told}"
    return chart(title, said, bottom + _BELOW, marks, inset=True)


def intervals(title: str, unit: str, rows: Sequence[JudgedFigure]) -> Markup:
    """Figures as dots on their intervals, each below its label; a dashed line marks the limit."""
    ends = [end for row in rows for end in (row.value, row.low, row.high, row.limit) if end is not None]
    ticks = floor_ticks(min(ends), max(ends))

    def x_of(value: float) -> float:
        return (value - ticks[0]) / (ticks[-1] - ticks[0])

    marks = []
    for index, row in enumerate(rows):
        top = index * _ROW
        kind = row.verdict.split()[0]
        marks.append(text(row.label, "0%", top + 12))
        if row.low is not None and row.high is not None:
            marks.append(line(across(x_of(row.low)), top + 25, across(x_of(row.high)), top + 25, f"range {kind}"))
        marks.append(_limit(x_of(row.limit), top))
        marks.append(tag("circle", cx=across(x_of(row.value)), cy=top + 25, r=4.5, class_=f"dot {kind}"))
    bottom = len(rows) * _ROW
    marks.append(x_axis([(x_of(tick), figure(tick)) for tick in ticks], bottom, unit))
    words = "; ".join(f"{row.label} {figure(row.value)}, limit {figure(row.limit)}" for row in rows)
    legend = [("dash", "limit"), ("a", "found, with its interval")]
    return chart(title, f"{words}.", bottom + _BELOW, marks, legend)


def _layer_ticks(taps: Sequence[ErrorPoint], centres: Sequence[float]) -> list[tuple[float, str]]:
    """Puts a layer's number below its first tap, for as many layers as fit."""
    firsts = {tap.layer: x for tap, x in reversed(list(zip(taps, centres, strict=True)))}
    layers = sorted(layer for layer in firsts if layer is not None)
    return [(firsts[layers[index]], str(layers[index])) for index in steps(len(layers))] if layers else []


def _rect(left: float, top: float, width: float, height: float, kind: str) -> Markup:
    return tag("rect", x=across(left), y=top, width=across(width), height=height, class_=kind)


def _limit(x: float, top: float) -> Markup:
    """A line across the bar of the row that begins at `top`, clear of the text above and below."""
    return line(across(x), top + 17, across(x), top + 33, "limit")
