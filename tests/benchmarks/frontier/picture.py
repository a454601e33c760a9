"""Draws the divergence of files against their size, a line for each tool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from seap_export.pipeline.plots.style import line_style, new_figure

#: Megabytes, KL and its standard error.
Point = tuple[float, float, float | None]


def frontier(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both size and divergence, the smallest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: point[:2]):
        if not best or point[1] < best[-1][1]:
            best.append(point)
    return best


def frontier_figure(tools: Mapping[str, Sequence[Point]], texts: int, title: str) -> Figure:
    """A figure of all points; a tool's line joins its frontier, and bars are standard errors."""
    figure = new_figure(7.0, 4.6, title, f"{texts} held-out texts; lines join the best files of a tool")
    panel = figure.subplots()
    for index, (tool, points) in enumerate(tools.items()):
        style = line_style(index)
        best = frontier(points)
        panel.plot([point[0] for point in best], [point[1] for point in best], color=style["color"])
        sizes, kls, errors = ([point[part] or 0.0 for point in points] for part in range(3))
        panel.errorbar(sizes, kls, errors, fmt="none", ecolor=style["color"])
        panel.plot(sizes, kls, linestyle="none", label=tool, **style)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("weight files (MB)")
    panel.set_ylabel("mean KL divergence from the dense model\n(nats per token, log)")
    panel.grid(True)
    panel.legend()
    return figure
