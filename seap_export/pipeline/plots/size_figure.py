"""Draws the files that an export measured: size against divergence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from seap_export.pipeline.plots.style import BLUE, GREY, ORANGE, new_figure
from validation.reports.numbers import megabytes
from validation.reports.recommended import title


def size_figure(task: str, recommended: Mapping[str, Any]) -> Figure:
    """A point for each file, on a logarithmic axis of sizes; a line joins those that no other beats.

    A ring marks the file to ship, and dashed lines the limits.

    Args:
        recommended: The recommendation for the task, as a validation report has it.
    """
    files, limits = recommended["files"], recommended["limits"]
    figure = new_figure(7.5, 5.0, f"{task}: size against divergence")
    panel = figure.subplots()
    best = [file for file in files if not file["beaten"]]
    panel.plot([file["bytes"] for file in best], [file["mean_kl_nats"] for file in best], color=GREY, linewidth=0.8)
    for label, colour, marker, of_kind in (
        ("whole", ORANGE, "s", [file for file in files if file["is_whole"]]),
        ("pruned", BLUE, "o", [file for file in files if not file["is_whole"]]),
    ):
        for file in of_kind:
            place, is_first = (file["bytes"], file["mean_kl_nats"]), file is of_kind[0]
            words, shade = label if is_first else None, 0.4 if file["beaten"] else 1.0
            panel.errorbar(
                *place, file["mean_kl_nats_stderr"], fmt=marker, color=colour, alpha=shade, markersize=6, label=words
            )
            panel.annotate(title(file), place, (6, 6), textcoords="offset points", fontsize=8.0)
            if file["name"] == recommended["file"]:
                panel.plot(*place, "o", markersize=14, markerfacecolor="none", color="black", label="to ship")
    if limits["bytes"] is not None:
        panel.axvline(limits["bytes"], color="black", linestyle="--", label="limit")
    if limits["max_kl"] is not None:
        panel.axhline(limits["max_kl"], color="black", linestyle="--", label="limit")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda size, _: megabytes(round(size))))
    panel.set_xlabel("size (log)")
    panel.set_ylabel("KL, nats per token")
    panel.margins(0.15)
    panel.grid(True)
    figure.legend(loc="outside lower center", ncols=4)
    return figure
