"""The heat map of what variants lost on the texts of every task and on a general text."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from seap_export.plots.style import GREY, LETTER, fitted, new_figure
from validation.reports.matrix import STEPS, LossMatrix, step_of

__all__ = ["elsewhere_figure"]

_COLOURS = "Oranges"
#: From this step on, the colour is dark.
_DARK = 4


def elsewhere_figure(matrix: LossMatrix) -> Figure:
    """One row per variant and one column per set of texts: mean KL in colour, bits per byte below it.

    The first row has the dense model's bits per byte. A frame marks the tasks that a variant was made for.
    """
    names = ("dense model", *matrix.rows)
    letters = max(map(len, matrix.columns))
    side = fitted(LETTER * letters, 0.9, 1.6)
    figure = new_figure(
        fitted(side * len(matrix.columns) + LETTER * max(map(len, names)) + 1.8, 4.5, 24.0),
        fitted(0.45 * len(names) + 1.6, 2.6, 24.0),
        "What was lost elsewhere",
        f"on up to {matrix.texts} texts of each task and on a general text",
        "bits per byte in brackets",
    )
    panel = figure.subplots()
    cells = [[math.nan] * len(matrix.columns)]
    cells += [[math.nan if own is None else own["mean_kl_nats"] for own in row] for row in matrix.rows.values()]
    bounds = [0.0, *STEPS]
    norm = BoundaryNorm(bounds, 256, extend="max")
    image = panel.imshow(np.array(cells), cmap=_COLOURS, norm=norm, aspect="auto", interpolation="none")
    for column, bits in enumerate(matrix.dense):
        panel.text(column, 0, f"({bits:.2f})", ha="center", va="center", color=GREY, fontsize=8.0)
    for row, own in enumerate(matrix.rows.values(), start=1):
        for column, cell in enumerate(own):
            if cell is None:
                panel.text(column, row, "not measured", ha="center", va="center", color=GREY, fontsize=8.0)
                continue
            words = f"{cell['mean_kl_nats']:.3f}\n({cell['bits_per_byte']:.2f})"
            colour = "white" if step_of(cell["mean_kl_nats"]) >= _DARK else "black"
            panel.text(column, row, words, ha="center", va="center", color=colour, fontsize=8.0)
            if cell["own"]:
                frame = Rectangle((column - 0.47, row - 0.45), 0.94, 0.9, fill=False, edgecolor="black", linewidth=1.2)
                panel.add_patch(frame)
    panel.set_yticks(range(len(names)), names)
    panel.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=0 if LETTER * letters <= side else 90)
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    figure.colorbar(image, ax=panel, label="mean KL divergence (nats per token)", ticks=bounds)
    return figure
