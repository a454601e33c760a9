"""The common style of all figures, and how they are saved: equal figures give equal bytes."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

#: Colours of Okabe and Ito (2008), which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"
GREY, PALE = "#666666", "#dddddd"
#: Approximate width of a letter in a label, in inches; rather too large than too small.
LETTER = 0.09
_COLOURS, _MARKERS = (BLUE, ORANGE, GREEN, PURPLE, SKY, "#d55e00"), "osD^vP"
_PNG_DPI = 200
_STYLE = {
    "svg.fonttype": "path",  # looks the same without the font; texts are kept as comments
    "svg.hashsalt": "seap-export",  # otherwise ids are random
    "text.parse_math": False,  # a '$' in a name stays a '$'
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "figure.titlesize": 11.0,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "lines.linewidth": 1.4,
    "lines.markersize": 4.0,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Makes figures look alike whatever the user's matplotlibrc says; draw and save them within the block."""
    defaults: dict[str, Any] = {
        key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith(("backend", "interactive"))
    }
    with mpl.rc_context(cast(Any, {**defaults, **_STYLE})), warnings.catch_warnings():
        # A letter missing from the font becomes a box, which is visible in the figure.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def new_figure(width: float, height: float, title: str, *notes: str) -> Figure:
    """An empty figure; sizes are in inches, the layout prevents overlaps, and notes are lines below the title."""
    letters = int(10 * width)  # fit on a line
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(textwrap.fill(line, letters) for line in (title, *notes)))
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour and marker of a line: 36 pairs, the first six of which differ in both."""
    turn, colour = divmod(index, len(_COLOURS))
    return {"color": _COLOURS[colour], "marker": _MARKERS[(colour + turn) % len(_MARKERS)]}


def fitted(size: float, least: float, most: float) -> float:
    """A length in inches, clamped to the given range."""
    return min(max(size, least), most)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure in the format given by the suffix of `path`, without a date or version."""
    _fix_layout(figure)
    plain = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
    with path.open("wb") as file:  # by its path an SVG would get the system's line ends
        figure.savefig(file, format=path.suffix.removeprefix("."), dpi=_PNG_DPI, metadata=plain)


def _fix_layout(figure: Figure) -> None:
    """Computes the layout once and rounds the positions of the panels, whose last bits vary between runs."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = axes.get_position(original=True).bounds
        axes.set_position((round(left, 6), round(bottom, 6), round(width, 6), round(height, 6)))
