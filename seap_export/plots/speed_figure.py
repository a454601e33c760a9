"""The figure of a speed run: the speed-up of each variant and the ideal one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seap_export.plots.style import BLUE, GREY, LETTER, ORANGE, fitted, new_figure
from validation.runners.table import REFERENCE, runtime_title
from validation.speed.measure import Cell
from validation.speed.report import DENSE, SpeedReport, Speedup, SubjectFigures

__all__ = ["speed_figure"]

_BAR = 0.24  # inches for a bar and the gap below it
Of = Callable[[SubjectFigures, Cell], Speedup]


def speed_figure(report: SpeedReport) -> Figure:
    """One row per engine, columns for prefill and decoding, a bar per variant and case, and a mark for the ideal.

    Args:
        report: A run with at least one variant besides the dense model.
    """
    engines = list(dict.fromkeys(subject.engine for subject in report.subjects))
    variants = {
        engine: [own for own in report.subjects if own.engine == engine and own.model != DENSE] for engine in engines
    }
    bars = max(sum(len(own.timings) for own in group) for group in variants.values())
    longest = max(len(_label(own, cell)) for group in variants.values() for own in group for cell in own.timings)
    width, height = fitted(6.0 + LETTER * longest, 7.0, 14.0), len(engines) * (_BAR * bars + 0.9) + 0.9
    setting = report.setting
    note = f"{setting['provider']} provider, {setting['threads']} threads, medians of {setting['runs']} runs"
    figure = new_figure(width, height, "Speed-up over the dense model", note)
    grid = figure.subplots(len(engines), 2, sharex=True, sharey="row", squeeze=False)
    columns: tuple[tuple[str, Of], ...] = (("time to the first token", report.prefill), ("decoding", report.decode))
    for row, engine in zip(grid, engines, strict=True):
        for panel, (what, speedup) in zip(row, columns, strict=True):
            _panel(panel, variants[engine], speedup)
            panel.set_title(f"{what}, {engine if engine == REFERENCE else runtime_title(engine)}")
    for panel in grid[-1]:
        panel.set_xlabel("times faster")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure


def _panel(panel: Axes, variants: Sequence[SubjectFigures], speedup: Of) -> None:
    rows = [(own, cell) for own in variants for cell in own.timings]
    found = [speedup(own, cell) for own, cell in rows]
    places = range(len(rows))
    panel.barh(places, [own.measured for own in found], height=0.7, color=BLUE, label="measured")
    ideal = [own.ideal for own in found]
    panel.plot(ideal, places, linestyle="", marker="|", markersize=11, markeredgewidth=2, color=ORANGE, label="ideal")
    panel.axvline(1.0, color=GREY, linestyle=(0, (4, 3)), linewidth=1.0, label="dense model")
    panel.set_yticks(places, [_label(own, cell) for own, cell in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.grid(True, axis="x")


def _label(own: SubjectFigures, cell: Cell) -> str:
    return f"{own.model}, {cell.depth} tokens" + (f" x {cell.batch}" if cell.batch > 1 else "")
