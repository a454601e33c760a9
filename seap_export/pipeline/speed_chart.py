"""Draws a speed run to a file."""

from __future__ import annotations

from pathlib import Path

from seap_export.errors import UsageError
from seap_export.pipeline.plots import require_matplotlib
from validation.speed.report import SpeedReport

__all__ = ["check_chart", "write_speed_chart"]

_SUFFIXES = (".svg", ".png")


def check_chart(path: Path) -> None:
    """Checks before any timing that the chart can be drawn afterwards.

    Raises:
        UsageError: The suffix of the name is not a supported format.
        EnvironmentFailure: matplotlib is missing.
    """
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"--chart {path}: unknown format; give a name that ends in {' or '.join(_SUFFIXES)}")
    require_matplotlib()


def write_speed_chart(report: SpeedReport, path: Path) -> None:
    """Draws the speed-ups of all variants to a file in the format given by its suffix."""
    from seap_export.plots.speed_figure import speed_figure
    from seap_export.plots.style import house_style, save

    with house_style():
        save(speed_figure(report), path)
