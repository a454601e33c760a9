"""Figures of plans: what is removed in each layer, what is kept, and how much variants share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from seap_export.families import Attention, Mlp
from seap_export.plots.data import DrawnVariant, Overlap, Removed, short_names
from seap_export.plots.style import BLUE, GREY, LETTER, ORANGE, PALE, fitted, new_figure

__all__ = ["head_states", "kept_figure", "neuron_states", "overlap_figure", "sparsity_figure"]

_COLUMNS = 3
_COUNTED = {"weights": "attention and MLP weights", "macs": "multiply-adds", "bytes": "bytes of weights and cache"}
_LAYER = "layer (0 is next to the embedding)"
_LINES = (("attention", ORANGE, "s", "-"), ("MLP", BLUE, "o", "-"), ("both", GREY, "", "--"))
_ABSENT, _REMOVED, _GROUP_STAYS, _KEPT = range(4)
_STATES = ListedColormap(["#ffffff", PALE, ORANGE, BLUE])


def sparsity_figure(variants: Sequence[DrawnVariant], removed: Sequence[Removed]) -> Figure:
    """One panel per variant: the fraction of weights removed in each layer, in attention, in the MLP and in both.

    Args:
        variants: Variants with the same requested ratio.
        removed: The fractions that each of them removes.
    """
    columns = min(_COLUMNS, len(variants))
    rows = -(-len(variants) // columns)
    first = variants[0].plan
    title = f"Weights removed by layer at ratio {first.requested_ratio:g}"
    figure = new_figure(3.4 * columns + 0.8, 2.4 * rows + 1.2, title, first.source_name)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for panel, variant, name, fractions in zip(panels, variants, short_names(variants), removed, strict=False):
        values = {"attention": fractions.attention, "MLP": fractions.mlp, "both": fractions.total}
        for label, colour, marker, dashes in _LINES:
            layers = range(len(values[label]))
            panel.plot(layers, values[label], color=colour, marker=marker, linestyle=dashes, label=label)
        panel.set_title(f"{name}: {variant.plan.achieved_ratio:.1%} of all removed")
        panel.set_xlabel(_LAYER)
        panel.tick_params(labelbottom=True)
        panel.grid(True)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))  # the axes are shared
    panels[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylim(-0.02, max(0.1, 1.05 * max(max(*fractions.attention, *fractions.mlp) for fractions in removed)))
    for panel in grid[:, 0]:
        panel.set_ylabel("weights of the layer removed")
    for panel in panels[len(variants) :]:
        panel.set_visible(False)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(_LINES))
    return figure


def head_states(variant: DrawnVariant) -> np.ndarray:
    """The state of each query head: uint8, layers x heads; 1 removed, 2 removed from a kept KV group, 3 kept.

    0 fills up layers with fewer heads than the widest.
    """
    layers = variant.dense.layers
    states = np.full(
        (len(layers), max(layer[Attention].num_attention_heads for layer in layers)), _ABSENT, dtype=np.uint8
    )
    for row, layer, plan in zip(states, layers, variant.plan.layers, strict=True):
        dense = layer[Attention]
        row[: dense.num_attention_heads] = _REMOVED
        for group in plan.kv_groups:
            row[group * dense.heads_per_group : (group + 1) * dense.heads_per_group] = _GROUP_STAYS
        row[list(plan.heads)] = _KEPT
    return states


def neuron_states(variant: DrawnVariant) -> np.ndarray:
    """The state of each neuron: uint8, layers x neurons; 1 removed, 3 kept, 0 fills up layers with fewer."""
    layers = variant.dense.layers
    states = np.full((len(layers), max(layer[Mlp].intermediate_size for layer in layers)), _ABSENT, dtype=np.uint8)
    for row, dense, plan in zip(states, layers, variant.plan.layers, strict=True):
        row[: dense[Mlp].intermediate_size] = _REMOVED
        row[list(plan.neurons)] = _KEPT
    return states


def kept_figure(variant: DrawnVariant) -> Figure:
    """The heads and neurons that a variant keeps: one row per layer, with heads grouped by KV group."""
    heads, neurons = head_states(variant), neuron_states(variant)
    plan = variant.plan
    figure = new_figure(
        fitted(7.0 + 0.15 * heads.shape[1], 8.0, 14.0),
        fitted(1.6 + 0.15 * len(heads), 3.0, 12.0),
        f"Heads and neurons kept by {variant.name}",
        f"{plan.source_name}, task {plan.task}, {plan.achieved_ratio:.1%} of the "
        f"{_COUNTED[plan.settings.sparsity.budget]} removed",
    )
    widths = (fitted(0.15 * heads.shape[1], 1.4, 5.5), 6.0, 0.9)
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=widths)
    _raster(left, heads, "heads by KV group")
    first = variant.dense.first(Attention)
    for group in range(1, first.num_key_value_heads):
        left.axvline(group * first.heads_per_group - 0.5, color="white", linewidth=3.0)
    for line in range(1, len(heads)):
        left.axhline(line - 0.5, color="white", linewidth=0.6)
    for line in range(1, heads.shape[1]):
        left.axvline(line - 0.5, color="white", linewidth=0.6)
    left.set_ylabel(_LAYER)
    left.set_xlabel("query head")
    _raster(middle, neurons, "MLP neurons")
    middle.set_xlabel("neuron")
    share = (neurons == _KEPT).sum(axis=1) / (neurons != _ABSENT).sum(axis=1)
    right.barh(range(len(share)), share, color=BLUE, height=0.8)
    right.set_xlim(0.0, 1.0)
    right.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_xticks([0.0, 1.0])
    right.set_title("neurons kept")
    right.set_xlabel("share of the layer")
    legend = [
        Patch(color=BLUE, label="kept"),
        Patch(color=ORANGE, label="query head removed from a kept KV group"),
        Patch(color=PALE, label="removed; heads together with their KV group"),
    ]
    figure.legend(handles=legend, loc="outside lower center", ncols=len(legend))
    return figure


def _raster(panel: Axes, states: np.ndarray, title: str) -> None:
    """Embeds one image, whatever the number of cells."""
    panel.imshow(states, cmap=_STATES, vmin=_ABSENT, vmax=_KEPT, aspect="auto", interpolation="none")
    panel.set_title(title)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True))
    panel.spines[:].set_visible(False)


def overlap_figure(variants: Sequence[DrawnVariant], heads: Overlap, neurons: Overlap) -> Figure:
    """Two annotated matrices of Jaccard indices, with the expected index of random choices in brackets.

    Args:
        variants: Variants with the same requested ratio, at least two.
        heads: Overlap of the heads.
        neurons: Overlap of the neurons.
    """
    names = short_names(variants)
    side = fitted(0.75 * len(names), 2.0, 8.0)
    plan = variants[0].plan
    figure = new_figure(
        2.0 * side + 3.4,
        side + 2.1,
        f"Overlap of what the variants keep at ratio {plan.requested_ratio:g}",
        plan.source_name,
        "over the layers that are cut; in brackets: expected for random choices",
    )
    panels = figure.subplots(1, 2)
    fits = LETTER * max(map(len, names)) < side / len(names)
    for panel, title, shared in zip(panels, ("heads", "neurons"), (heads, neurons), strict=True):
        _matrix(panel, shared, names, title)
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
