"""Draws divergence, perplexity and accuracy against the achieved ratio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from seap_export.pipeline.plots.quality import QualityPoint, series_names
from seap_export.pipeline.plots.style import GREY, LETTER, line_style, new_figure

_DENSE = "dense model"
_LEGEND_LINE = 0.7  # inches for the line next to a name and the gap after it


@dataclass(frozen=True)
class _Measure:
    """A row of panels: its axis label, how to read a point's value and the dense model's, and the error's name."""

    label: str
    value: Callable[[QualityPoint], float | None]
    dense: Callable[[QualityPoint], float | None]
    error: str = ""
    logarithmic: bool = False
    percent: bool = False


def quality_figure(points: Sequence[QualityPoint]) -> Figure:
    """One column per task; rows for mean KL divergence, perplexity (log) and each benchmark; one line per series.

    Rows without any value are left out. A dashed line shows the dense model, bars are standard errors.
    """
    names = series_names(points)
    series = sorted(set(names))
    tasks = list(dict.fromkeys(point.task for point in points))
    measures = [m for m in _measures(points) if any(m.value(point) is not None for point in points)]
    width = 3.2 * len(tasks) + 0.8
    columns = max(1, int(width / (_LEGEND_LINE + LETTER * max(map(len, (*series, _DENSE))))))
    legend_rows = -(-(len(series) + 1) // columns)
    height = 2.3 * len(measures) + 1.0 + 0.2 * legend_rows
    figure = new_figure(width, height, "Quality against the weights removed")
    grid = figure.subplots(len(measures), len(tasks), sharex=True, squeeze=False)
    for row, measure in zip(grid, measures, strict=True):
        for panel, task in zip(row, tasks, strict=True):
            of_task = [(point, name) for point, name in zip(points, names, strict=True) if point.task == task]
            _panel(panel, measure, of_task, series)
        row[0].set_ylabel(measure.label)
    for panel, task in zip(grid[0], tasks, strict=True):
        panel.set_title(task)
    for panel in grid[-1]:
        panel.set_xlabel("fraction removed")
    grid[0][0].set_xlim(0.0, max(0.1, 1.06 * max(point.achieved_ratio for point in points)))  # shared by all
    entries = {
        label: handle for panel in grid.flat for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in (*series, _DENSE) if label in entries]
    figure.legend(
        [entries[label] for label in order], order, loc="outside lower center", ncols=min(columns, len(order))
    )
    return figure


def _measures(points: Sequence[QualityPoint]) -> list[_Measure]:
    def accuracy(benchmark: str) -> _Measure:
        return _Measure(
            f"accuracy, {benchmark}",
            lambda point: point.accuracy.get(benchmark),
            lambda point: point.dense_accuracy.get(benchmark),
            error=benchmark,
            percent=True,
        )

    return [
        _Measure(
            "mean KL divergence\n(nats per token)",
            lambda point: point.mean_kl_nats,
            lambda point: 0.0,
            error="mean_kl_nats",
        ),
        _Measure("perplexity (log)", lambda p: p.perplexity, lambda p: p.dense_perplexity, logarithmic=True),
        *map(accuracy, sorted({benchmark for point in points for benchmark in point.accuracy})),
    ]


def _panel(panel: Axes, measure: _Measure, points: Sequence[tuple[QualityPoint, str]], series: Sequence[str]) -> None:
    shown = [(point, name, measure.value(point)) for point, name in points]
    drawn = [value for _, _, value in shown if value is not None]
    if not drawn:
        panel.text(0.5, 0.5, "not evaluated", ha="center", va="center", color=GREY, transform=panel.transAxes)
    for index, label in enumerate(series):
        line = sorted(
            (p.achieved_ratio, value, p.stderr.get(measure.error, 0.0))
            for p, name, value in shown
            if name == label and value is not None
        )
        if line:
            x, y, errors = zip(*line, strict=True)
            panel.plot(x, y, label=label, **line_style(index))
            if any(errors):
                panel.errorbar(x, y, errors, fmt="none", ecolor=line_style(index)["color"])
    level = next((dense for point, _ in points if (dense := measure.dense(point)) is not None), None)
    if level is not None and drawn:
        panel.axhline(level, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, zorder=1.0, label=_DENSE)
        drawn.append(level)
    panel.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.tick_params(labelbottom=True)
    panel.grid(True)
    _scale(panel, measure, drawn)


def _scale(panel: Axes, measure: _Measure, drawn: Sequence[float]) -> None:
    if measure.percent:
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if measure.logarithmic and drawn:
        panel.set_yscale("log")
        narrow = max(drawn) < 5.0 * min(drawn)
        panel.yaxis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_locator(NullLocator())
