"""The candidates of an export with targets: a chart of size against divergence for each task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from validation.reports.figures import KL
from validation.reports.frontier import written
from validation.reports.html.axes import Chart, across, circle, floor_ticks, line, text, x_axis, y_axis
from validation.reports.numbers import figure, megabytes
from validation.reports.reading import Json

_ABOVE, _HEIGHT, _BELOW = 20, 220, 38  # pixels: the label of the vertical axis, the plot, the horizontal axis
_MOST_TICKS = 6


def frontier_chart(task: str, points: Sequence[Json], targets: Json) -> Chart:
    """Size on a logarithmic scale against KL; a line joins what nothing beats, dashed lines are the targets."""
    sizes = [point["bytes"] for point in points]
    limits = [size for size in (targets["size"],) if size is not None and min(sizes) / 2 < size < 2 * max(sizes)]
    low, high = min([*sizes, *limits]) / 1.08, max([*sizes, *limits]) * 1.08
    ticks = floor_ticks(0.0, max(point["mean_kl_nats"] for point in points) or 1.0)
    bottom = _ABOVE + _HEIGHT

    def x_of(size: float) -> float:
        return math.log(size / low) / math.log(high / low)

    def height(kl: float) -> float:
        return round(bottom - _HEIGHT * kl / ticks[-1], 2)

    marks = y_axis([(height(tick), figure(tick)) for tick in ticks], "KL, nats per token")
    marks += [line(across(x_of(size)), _ABOVE, across(x_of(size)), bottom, "limit") for size in limits]
    if targets["max_kl"] is not None and targets["max_kl"] <= ticks[-1]:
        marks.append(line("0%", height(targets["max_kl"]), "100%", height(targets["max_kl"]), "limit"))
    best = [point for point in points if not point["beaten"]]
    for left, right in pairwise(best):
        ends = [(across(x_of(point["bytes"])), height(point["mean_kl_nats"])) for point in (left, right)]
        marks.append(line(*ends[0], *ends[1], "path"))
    for point in points:
        words = f"{point['variant']}, {written(point)}"
        said = f"{words}: {megabytes(point['bytes'])}, KL {KL.cell({'quality': point}).main}"
        kind = "beaten" if point["beaten"] else "a" if point["ratio"] else "b"
        x, y = x_of(point["bytes"]), height(point["mean_kl_nats"])
        if point["chosen"]:
            marks.append(circle(x, y, 9, "ring"))
            beside, anchor = (x + 0.03, "start") if x < 0.6 else (x - 0.03, "end")
            marks.append(text(words, across(beside), y + 4, anchor, "chosen"))
        marks.append(circle(x, y, 5, kind, said))
    marks += x_axis([(x_of(size), megabytes(size)) for size in _sizes(low, high)], bottom, "size (log)")
    told = "; ".join(
        f"{point['variant']} in {written(point)} {megabytes(point['bytes'])}, "
        f"KL {KL.cell({'quality': point}).main}"
        f"{', chosen' if point['chosen'] else ', beaten' if point['beaten'] else ''}"
        for point in points
    )
    legend = [("a", "pruned"), ("b", "dense"), ("beaten", "beaten")]
    if limits or targets["max_kl"] is not None:
        legend.append(("dash", "target"))
    return Chart(f"{task}: size against divergence", f"{told}.", bottom + _BELOW, marks, legend, inset=True)


def _sizes(low: float, high: float) -> list[int]:
    """Round numbers of bytes within a range, or its middle if there is none."""
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        sizes = [round(factor * 10**power) for power in powers for factor in factors]
        inside = [size for size in sizes if low <= size <= high]
        if len(inside) <= _MOST_TICKS:
            break
    return inside or [round(math.sqrt(low * high))]
