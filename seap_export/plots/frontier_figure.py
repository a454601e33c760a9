"""The figure of an export's candidates: size against divergence and agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from seap_export.plots.style import BLUE, GREY, ORANGE, PALE, new_figure

__all__ = ["frontier_figure"]

Points = Sequence[Mapping[str, Any]]


def frontier_figure(frontier: Mapping[str, Any]) -> Figure:
    """One column per task; rows for mean KL divergence and top-1 agreement against the size (log).

    Points that another beats, being no larger and nearer to the dense model, are grey; a ring marks the choice, dashed
    lines are the targets. Names are at the dense points and at the choice, since others may lie close together.

    Args:
        frontier: The content of frontier.json, with at least one task that has points.
    """
    tasks = {name: own["points"] for name, own in frontier["tasks"].items() if own["points"]}
    figure = new_figure(3.6 * len(tasks) + 0.8, 5.8, "Size against divergence from the dense model")
    grid = figure.subplots(2, len(tasks), sharex="col", squeeze=False)
    targets = frontier["targets"]
    for column, (task, points) in enumerate(tasks.items()):
        upper, lower = grid[0][column], grid[1][column]
        _panel(upper, points, "mean_kl_nats", targets["size"])
        _panel(lower, points, "top1_agreement", targets["size"])
        upper.set_title(task)
        upper.set_ylim(0.0, 1.08 * upper.get_ylim()[1])
        if targets["max_kl"] is not None:
            upper.axhline(targets["max_kl"], color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="target")
        lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        lower.set_xlabel("size, MB (log)")
    grid[0][0].set_ylabel("mean KL divergence\n(nats per token)")
    grid[1][0].set_ylabel("top-1 agreement")
    entries = {
        label: handle for panel in grid.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=3)
    return figure


def _panel(panel: Axes, points: Points, measure: str, limit: int | None) -> None:
    panel.set_xscale("log")
    best = [(own["bytes"] / 1e6, own[measure]) for own in points if not own["beaten"]]
    panel.plot(*zip(*best, strict=True), color=PALE, zorder=1.0)
    kinds = {
        "dense": (ORANGE, [own for own in points if not own["beaten"] and not own["ratio"]]),
        "pruned": (BLUE, [own for own in points if not own["beaten"] and own["ratio"]]),
        "beaten by another": (PALE, [own for own in points if own["beaten"]]),
    }
    for label, (colour, own) in kinds.items():
        places = [(point["bytes"] / 1e6, point[measure]) for point in own]
        if places:
            x, y = zip(*places, strict=True)
            panel.scatter(x, y, s=28, color=colour, label=label, zorder=3.0, clip_on=False)
    for point in points:
        place = point["bytes"] / 1e6, point[measure]
        precision = point["precision"] + ("" if point["vocabulary"] == "all" else " (vocabulary cut)")
        if point["chosen"]:
            panel.scatter(place[0], place[1], s=110, facecolors="none", edgecolors="black", label="chosen", zorder=4.0)
            words = f"{precision}, {point['ratio']:g}"
            panel.annotate(words, place, (9, -3), textcoords="offset points", color="black")
        elif not point["ratio"]:
            panel.annotate(precision, place, (0, 6), textcoords="offset points", ha="center", color=GREY)
    if limit is not None:
        panel.axvline(limit / 1e6, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="target")
    low, high = panel.get_xlim()
    panel.xaxis.set_major_locator(MaxNLocator(4) if high < 5.0 * low else LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.tick_params(labelbottom=True)
    panel.grid(True)
