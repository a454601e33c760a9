"""Size against divergence: a chart of the candidates of an export with targets, or of the files that it measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from validation.reports.frontier import kl_cell, written
from validation.reports.html.axes import Chart, across, circle, floor_ticks, line, x_axis, y_axis
from validation.reports.numbers import figure, megabytes
from validation.reports.reading import Json
from validation.reports.recommended import title

_ABOVE, _HEIGHT, _BELOW = 20, 220, 38  # pixels: the label of the vertical axis, the plot, the horizontal axis
_MOST_TICKS = 6


def files_chart(task: str, found: Json) -> Chart:
    """The files that were measured for a task; a ring marks the one to ship."""
    limits = {"size": found["limits"]["bytes"], "max_kl": found["limits"]["max_kl"]}
    points = [
        {**file, "words": title(file), "ratio": not file["is_whole"], "chosen": file["name"] == found["file"]}
        for file in found["files"]
    ]
    return _chart(f"{task}: size against divergence", points, limits, "ship")


def frontier_chart(task: str, points: Sequence[Json], targets: Json) -> Chart:
    """The candidates that were evaluated for a task."""
    named = [{**point, "words": f"{point['variant']}, {written(point)}"} for point in points]
    return _chart(f"{task}: size against divergence of the candidates", named, targets, "chosen")


def _chart(heading: str, points: Sequence[Json], targets: Json, ringed: str) -> Chart:
    """Size on a logarithmic scale against KL; a line joins unbeaten points, dashed lines are the targets."""
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
        words = point["words"]
        said = f"{words}: {megabytes(point['bytes'])}, KL {kl_cell(point).main}"
        kind = "beaten" if point["beaten"] else "a" if point["ratio"] else "b"
        x, y = x_of(point["bytes"]), height(point["mean_kl_nats"])
        if point["chosen"]:
            marks.append(circle(x, y, 9, "ring"))
        marks.append(circle(x, y, 5, kind, said))
    marks += x_axis([(x_of(size), megabytes(size)) for size in _sizes(low, high)], bottom, "size (log)")
    told = "; ".join(
        f"{point['words']}: {megabytes(point['bytes'])}, "
        f"KL {kl_cell(point).main}"
        f"{', chosen' if point['chosen'] else ', beaten' if point['beaten'] else ''}"
        for point in points
    )
    legend = [("a", "pruned"), ("b", "whole"), ("beaten", "beaten")]
    legend += [("ring", f"{ringed}: {point['words']}") for point in points if point["chosen"]]
    if limits or targets["max_kl"] is not None:
        legend.append(("dash", "target"))
    return Chart(heading, f"{told}.", bottom + _BELOW, marks, legend, inset=True)


def _sizes(low: float, high: float) -> list[int]:
    """Round numbers of bytes within a range, or its middle if there is none."""
    for factors in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1,)):
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        sizes = [round(factor * 10**power) for power in powers for factor in factors]
        inside = [size for size in sizes if low <= size <= high]
        if len(inside) <= _MOST_TICKS:
            break
    return inside or [round(math.sqrt(low * high))]
