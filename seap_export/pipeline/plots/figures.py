"""Figures of plans: what is removed in each layer, what is kept, and how much variants share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from seap_export.pipeline.plots.data import DrawnVariant, Overlap, Removed, kinds_of, short_names
from seap_export.pipeline.plots.style import BLUE, GREEN, GREY, LETTER, ORANGE, PALE, PURPLE, fitted, new_figure
from seap_export.pruning.plan.sublayers import Kept

_COLUMNS = 3
_COUNTED = {"weights": "{} weights", "macs": "multiply-adds", "bytes": "bytes of weights and cache"}
_LAYER = "layer (0 is next to the embedding)"
_LINES = ((ORANGE, "s"), (BLUE, "o"), (GREEN, "D"), (PURPLE, "^"))
_ABSENT, _REMOVED, _GROUP_STAYS, _KEPT = range(4)
_STATES = ListedColormap(["#ffffff", PALE, ORANGE, BLUE])


def sparsity_figure(variants: Sequence[DrawnVariant], removed: Sequence[Removed]) -> Figure:
    """One panel per variant: the fraction of weights removed in each layer, in each kind of sublayer and in all."""
    columns = min(_COLUMNS, len(variants))
    rows = -(-len(variants) // columns)
    first = variants[0].plan
    title = f"Weights removed by layer at ratio {first.requested_ratio:g}"
    figure = new_figure(3.4 * columns + 0.8, 2.4 * rows + 1.2, title, first.source_name)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for panel, variant, name, fractions in zip(panels, variants, short_names(variants), removed, strict=False):
        kinds = kinds_of(variant)
        for kind, (colour, marker) in zip(kinds, _LINES, strict=False):
            values = np.array(fractions.sublayers[kind.name.lower()], dtype=float)
            panel.plot(range(len(values)), values, color=colour, marker=marker, linestyle="-", label=kind.name)
        label = "both" if len(kinds) == 2 else "all"
        panel.plot(range(len(fractions.total)), fractions.total, color=GREY, marker="", linestyle="--", label=label)
        panel.set_title(f"{name}: {variant.plan.achieved_ratio:.1%} of all removed")
        panel.set_xlabel(_LAYER)
        panel.tick_params(labelbottom=True)
        panel.grid(True)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))  # the axes are shared
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    parts = [value for fractions in removed for part in fractions.sublayers.values() for value in part if value]
    panels[0].set_ylim(-0.02, max(0.1, 1.05 * max(parts, default=0.0)))
    for panel in grid[:, 0]:
        panel.set_ylabel("weights of the layer removed")
    for panel in panels[len(variants) :]:
        panel.set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def unit_states(variant: DrawnVariant, kind: type[Kept]) -> np.ndarray:
    """The state of each unit of a kind, such as a query head: uint8, layers x units.

    1 removed, 2 removed from a group of which others are kept, 3 kept; 0 fills up layers with fewer than the widest.
    """
    dense = [{type(one): one.channels // one.unit for one in layer.sublayers} for layer in variant.dense.layers]
    numbers = [layer.get(kind.kind, 0) for layer in dense]
    states = np.full((len(numbers), max(numbers)), _ABSENT, dtype=np.uint8)
    for row, number, layer in zip(states, numbers, variant.plan.layers, strict=True):
        if number:
            kept = layer[kind]
            row[:number] = _REMOVED
            for group in {unit // kept.group for unit in kept.units}:
                row[group * kept.group : (group + 1) * kept.group] = _GROUP_STAYS
            row[list(kept.units)] = _KEPT
    return states


def kept_figure(variant: DrawnVariant) -> Figure:
    """The units that a variant keeps: a panel for each kind, with a row for each layer, and heads by KV group."""
    kinds, plan = kinds_of(variant), variant.plan
    states = [unit_states(variant, kind) for kind in kinds]
    groups = [_group(variant, kind) for kind in kinds]
    counts = [drawn.shape[1] for drawn, group in zip(states, groups, strict=True) if group]
    figure = new_figure(
        fitted(7.0 + 0.15 * sum(counts), 8.0, 14.0),
        fitted(1.6 + 0.15 * len(plan.layers), 3.0, 12.0),
        f"{' and '.join(kind.unit for kind in kinds).capitalize()} kept by {variant.name}",
        f"{plan.source_name}, task {plan.task}, {plan.achieved_ratio:.1%} of the "
        f"{_COUNTED[plan.settings.sparsity.budget].format(' and '.join(kind.name for kind in kinds))} removed",
    )
    widths = [
        fitted(0.15 * drawn.shape[1], 1.4, 5.5) if group else 6.0 for drawn, group in zip(states, groups, strict=True)
    ]
    *panels, right = figure.subplots(1, len(kinds) + 1, sharey=True, width_ratios=[*widths, 0.9])
    for panel, kind, drawn, group in zip(panels, kinds, states, groups, strict=True):
        title, axis = kind.panel
        _raster(panel, drawn, title)
        if group:
            _grid(panel, drawn, group)
        panel.set_xlabel(axis)
    panels[0].set_ylabel(_LAYER)
    share = (states[-1] == _KEPT).sum(axis=1) / np.maximum((states[-1] != _ABSENT).sum(axis=1), 1)
    right.barh(range(len(share)), share, color=BLUE, height=0.8)
    right.set_xlim(0.0, 1.0)
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_xticks([0.0, 1.0])
    right.set_title(f"{kinds[-1].unit} kept")
    right.set_xlabel("share of the layer")
    legend = [
        Patch(color=BLUE, label="kept"),
        Patch(color=ORANGE, label="query head removed from a kept KV group"),
        Patch(color=PALE, label="removed; heads together with their KV group"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend))
    return figure


def _group(variant: DrawnVariant, kind: type[Kept]) -> int | None:
    """How many units of a kind are in a group; None: a unit is a single channel, of which there are many."""
    parts = zip(variant.dense.layers, variant.plan.layers, strict=True)
    dense, layer = next((dense, layer) for dense, layer in parts if kind.kind.output in dense.outputs)
    return layer[kind].group if dense[kind.kind].unit > 1 else None


def _grid(panel: Axes, states: np.ndarray, group: int) -> None:
    """Lines between units, thick ones between groups."""
    for line in range(group, states.shape[1], group):
        panel.axvline(line - 0.5, color="white", linewidth=3.0)
    for line in range(1, len(states)):
        panel.axhline(line - 0.5, color="white", linewidth=0.6)
    for line in range(1, states.shape[1]):
        panel.axvline(line - 0.5, color="white", linewidth=0.6)


def _raster(panel: Axes, states: np.ndarray, title: str) -> None:
    """Embeds one image, whatever the number of cells."""
    panel.imshow(states, cmap=_STATES, vmin=_ABSENT, vmax=_KEPT, aspect="auto", interpolation="none")
    panel.set_title(title)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.spines[:].set_visible(False)


def overlap_figure(variants: Sequence[DrawnVariant], shared: Mapping[str, Overlap]) -> Figure:
    """Annotated matrices of Jaccard indices, with the expected index of random choices in brackets."""
    names = short_names(variants)
    side = fitted(0.75 * len(names), 2.0, 8.0)
    plan = variants[0].plan
    figure = new_figure(
        len(shared) * side + 3.4,
        side + 2.1,
        f"Overlap of what the variants keep at ratio {plan.requested_ratio:g}",
        plan.source_name,
        "over the layers that are cut; in brackets: expected for random choices",
    )
    panels = figure.subplots(1, len(shared), squeeze=False)[0]
    fits = LETTER * max(map(len, names)) < side / len(names)
    for panel, (title, matrix) in zip(panels, shared.items(), strict=True):
        _matrix(panel, matrix, names, title)
        panel.set_xticks(range(len(names)), names, rotation=0 if fits else 90)
    figure.colorbar(panels[0].images[0], ax=list(panels), label="Jaccard index", shrink=0.8)
    return figure


def _matrix(panel: Axes, shared: Overlap, names: Sequence[str], title: str) -> None:
    values = np.array([[np.nan if value is None else value for value in row] for row in shared.jaccard])
    panel.imshow(values, cmap="Blues", vmin=0.0, vmax=1.0, interpolation="none")
    for row in range(len(names)):
        for column in range(len(names)):
            index, chance = shared.jaccard[row][column], shared.chance[row][column]
            text = "not cut" if index is None else f"{index:.2f}"
            if chance is not None and row != column:
                text += f"\n({chance:.2f})"
            colour = "white" if index is not None and index > 0.6 else "black"
            panel.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.0)
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(length=0)
    panel.set_title(title)
    panel.spines[:].set_visible(False)
