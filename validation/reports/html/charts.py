"""The charts of a page: divergences, errors by layer, speed-ups with limits, sizes by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from validation.reports.html.axes import (
    Chart,
    across,
    circle,
    floor_ticks,
    line,
    rectangle,
    round_ticks,
    steps,
    text,
    x_axis,
    y_axis,
)
from validation.reports.numbers import figure, times, with_error
from validation.reports.reading import Json
from validation.reports.speedups import JUDGED, SIZE, case_in_words

_BELOW = 38  # pixels for a horizontal axis, its ticks and its label
_ABOVE = 20  # pixels for the label of a vertical axis
_ROW = 38  # pixels for a bar and the line of text above it
_COLUMNS = 96
_ERRORS = 150
#: A limit beyond this many times the largest value would flatten the bars; it is mentioned but not drawn.
_FURTHEST_LIMIT = 4
_MOST_DECADES = 5
_NAME_LETTERS = 20  # fit next to the pointer on a phone
_FORMS = {"hf": ("a", "safetensors (hf)"), "onnx": ("b", "ONNX")}
#: The charts of layers: title, unit, and what is shown by its key in the report.
_SIZES = (
    ("Attention heads left", "heads", (("num_attention_heads", "query heads"), ("num_key_value_heads", "KV heads"))),
    ("Channels of convolutions left", "channels", (("conv_dim", "channels"),)),
    ("MLP neurons left", "neurons", (("intermediate_size", "neurons"),)),
    ("Experts left", "experts", (("num_experts", "experts"),)),
    ("Neurons of the shared expert left", "neurons", (("shared_expert_intermediate_size", "shared neurons"),)),
    ("Neurons of an expert left", "neurons", (("moe_intermediate_size", "neurons of an expert"),)),
)


@dataclass(frozen=True)
class Bar:
    """A bar: its label, its length (not negative) and standard error, and the class that sets its colour."""

    label: str
    value: float
    kind: str
    limit: float | None = None
    error: float | None = None

    @property
    def words(self) -> str:
        """The value and its standard error as text."""
        return with_error(self.value, self.error)


def divergence_chart(variants: Mapping[str, Json]) -> Chart | None:
    """Mean KL divergence from the dense model by task, with a bar for each form of a variant; None: not measured."""
    rows, forms = [], dict[tuple[str, str], None]()
    for name, variant in variants.items():
        quality = variant["quality"] or {}
        limit = (quality.get("limits") or {}).get("max_kl_nats")
        task = "" if variant["task"] is None or variant["task"] in name else f" ({variant['task']})"
        for form, figures in (quality.get("divergence") or {}).items():
            kind, words = _FORMS.get(form, ("b", form))
            forms[kind, words] = None
            label, error = f"{name}{task}, {form}", figures.get("mean_kl_nats_stderr")
            rows.append(Bar(label, figures["mean_kl_nats"], kind, limit, error))
    if not rows:
        return None
    kinds = sorted({kind for kind, _ in forms})
    legend = [(kind, ", ".join(words for of, words in forms if of == kind)) for kind in kinds]
    if any(row.limit is not None for row in rows):
        legend.append(("dash", "limit"))
    return bars("Mean KL divergence from the dense model", "nats per token", rows, legend)


def bars(title: str, unit: str, rows: Sequence[Bar], legend: Sequence[tuple[str, str]]) -> Chart:
    """Horizontal bars from 0, each below its label and value; a dashed line marks a bar's limit."""
    largest = max((row.value for row in rows), default=0.0)
    near = [row.limit for row in rows if row.limit is not None and row.limit <= _FURTHEST_LIMIT * largest]
    ticks = round_ticks(max([largest, *near]) or 1.0)
    marks = []
    for index, row in enumerate(rows):
        top = index * _ROW
        marks.append(text(f"{row.label}: {row.words} {unit}", "0%", top + 12))
        marks.append(rectangle(0.0, top + 19, row.value / ticks[-1], 12, row.kind))
        if row.limit is not None and row.limit <= ticks[-1]:
            marks.append(_limit(row.limit / ticks[-1], top))
    bottom = len(rows) * _ROW
    marks += x_axis([(tick / ticks[-1], figure(tick)) for tick in ticks], bottom, unit)
    words = "; ".join(f"{row.label} {row.words}" for row in rows)
    return Chart(title, f"Bars in {unit}: {words}.", bottom + _BELOW, marks, legend)


def layer_charts(layers: Sequence[Json]) -> list[Chart]:
    """Charts of what pruning left in each layer: the share of weights, and numbers of heads, neurons and the like."""
    kept = [100 * layer["kept"] for layer in layers]
    charts = [columns("Weights kept", "% of the layer's weights", [("a", "weights", kept)], 100.0)]
    for title, unit, known in _SIZES:
        sizes = [(key, words) for key, words in known if any(key in layer for layer in layers)]
        series = [
            (style, words, [float(layer.get(key, 0)) for layer in layers])
            for style, (key, words) in zip("ab", sizes, strict=False)
        ]
        charts += [columns(title, unit, series, 0.0)] if series else []
    return charts


def layer_sizes(layers: Sequence[Json]) -> dict[str, str]:
    """The words for each size that `layer_charts` shows besides weights, by its key in the report's layers."""
    sizes = dict(size for *_, sizes in _SIZES for size in sizes)
    return {key: words for key, words in sizes.items() if any(key in layer for layer in layers)}


def columns(title: str, unit: str, series: Sequence[tuple[str, str, Sequence[float]]], top: float) -> Chart:
    """Columns by layer for one or two series of (class, words, values), the second narrower and in front.

    The axis reaches at least to `top`.
    """
    largest = max([top, *(value for *_, values in series for value in values)])
    ticks = round_ticks(largest or 1.0, 2)
    bottom, number = _ABOVE + _COLUMNS, len(series[0][2])
    marks = y_axis([(bottom - _COLUMNS * tick / ticks[-1], figure(tick)) for tick in ticks], unit)
    for (kind, _, values), width in zip(series, (0.8, 0.4), strict=False):
        for layer, value in enumerate(values):
            height = _COLUMNS * value / ticks[-1]
            left = (layer + (1 - width) / 2) / number
            marks.append(rectangle(left, bottom - height, width / number, height, kind))
    marks += x_axis([((layer + 0.5) / number, str(layer)) for layer in steps(number)], bottom, "layer")
    spans = "; ".join(f"{words} from {_exact(min(values))} to {_exact(max(values))}" for _, words, values in series)
    legend = [(kind, words) for kind, words, _ in series] if len(series) > 1 else []
    return Chart(title, f"{number} layers: {spans} ({unit}).", bottom + _BELOW, marks, legend, inset=True)


def _exact(value: float) -> str:
    """A count with all its digits, and a share with three."""
    return str(int(value)) if value.is_integer() else figure(value)


def error_chart(bisect: Json) -> Chart:
    """The relative error of each tensor on a logarithmic scale; marks and names the first one that diverges.

    Values that are not finite are in a separate row at the top, errors of 0 at the bottom.
    """
    taps, named = bisect["taps"], bisect["first"] or {"name": None}
    first = next((index for index, tap in enumerate(taps) if tap["name"] == named["name"]), None)
    finite = [tap["error"] for tap in taps if tap["error"] is not None and tap["error"] > 0]
    low = math.floor(math.log10(min(finite, default=1e-7)))
    high = max(math.ceil(math.log10(max(finite, default=1.0))), low + 1)
    lost = any(tap["error"] is None for tap in taps)
    start = _ABOVE + (20 if first is not None else 0) + (20 if lost else 0)
    bottom = start + _ERRORS
    stride = math.ceil((high - low) / _MOST_DECADES)

    def height(error: float | None) -> float:
        if error is None:
            return start - 12
        share = (math.log10(error) - low) / (high - low) if error > 0 else 0.0
        return bottom - _ERRORS * share

    centres = [(index + 0.5) / len(taps) for index in range(len(taps))]
    points = [(x, height(tap["error"])) for x, tap in zip(centres, taps, strict=True)]
    decades = [(height(10.0**power), f"1e{power}") for power in range(low, high + 1, stride)]
    marks = y_axis([*decades, *([(start - 12, "NaN, Inf")] if lost else [])], "relative error")
    told = "None diverges by itself."
    if first is not None:
        (x, at), name = points[first], _short_name(named)
        told = f"The first to diverge: {name}."
        marks.append(line(across(x), _ABOVE + 16, across(x), at, "pointer"))
        marks.append(text(name, across(x), _ABOVE + 12, "start" if x < 0.5 else "end", "first"))
    for ((x1, y1), left), ((x2, y2), right) in pairwise(zip(points, taps, strict=True)):
        if left["error"] is not None and right["error"] is not None:
            marks.append(line(across(x1), y1, across(x2), y2, "path"))
    for index, ((x, y), tap) in enumerate(zip(points, taps, strict=True)):
        words = f"{tap['name']}: {'not finite' if tap['error'] is None else figure(tap['error'])}"
        kind, radius = ("first", 5) if index == first else ("lost" if tap["error"] is None else "a", 2.5)
        marks.append(circle(x, y, radius, kind, words))
    marks += x_axis(_layer_ticks(taps, centres), bottom, "layer, in the order of computation")
    said = f"{len(taps)} tensors in the order of computation. {told}"
    return Chart("Relative error of each tensor", said, bottom + _BELOW, marks, inset=True)


def _short_name(tap: Json) -> str:
    """The layer and the sublayer of a tensor, or the end of these."""
    names = [tap["sublayer"], tap["sublayer"].rsplit(".")[-1]]
    layer = "" if tap["layer"] is None else f"layer {tap['layer']}, "
    for name in names:
        if len(layer + name) <= _NAME_LETTERS:
            return layer + name
    return f"{layer}{names[-1]}"[: _NAME_LETTERS - 1] + "…"


def _layer_ticks(taps: Sequence[Json], centres: Sequence[float]) -> list[tuple[float, str]]:
    """Puts a layer's number below its first tap, for as many layers as fit."""
    firsts = {tap["layer"]: x for tap, x in reversed(list(zip(taps, centres, strict=True)))}
    layers = sorted(layer for layer in firsts if layer is not None)
    return [(firsts[layers[index]], str(layers[index])) for index in steps(len(layers))] if layers else []


def interval_chart(verdicts: Sequence[Json]) -> Chart | None:
    """Speed-ups as dots on their intervals; a dashed line marks the limit. None: no speed-up has one."""
    rows = [verdict for verdict in verdicts if verdict["figure"] != SIZE]
    if not rows:
        return None
    ends = [row[key] for row in rows for key in ("found", "low", "high", "limit") if row[key] is not None]
    ticks = floor_ticks(min(ends), max(ends))

    def x_of(value: float) -> float:
        return (value - ticks[0]) / (ticks[-1] - ticks[0])

    marks, told = [], []
    for index, row in enumerate(rows):
        top, kind = index * _ROW, row["verdict"].split()[0]
        where = ", ".join(part for part in (JUDGED[row["figure"]], case_in_words(row["batch"], row["depth"])) if part)
        label = f"{where}: {times(row['found'])}×"
        told.append(f"{label} {figure(row['found'])}, limit {figure(row['limit'])}")
        marks.append(text(label, "0%", top + 12))
        if row["low"] is not None and row["high"] is not None:
            low, high = (across(x_of(row[end])) for end in ("low", "high"))
            marks.append(line(low, top + 25, high, top + 25, f"range {kind}"))
        marks.append(_limit(x_of(row["limit"]), top))
        marks.append(circle(x_of(row["found"]), top + 25, 4.5, f"dot {kind}"))
    bottom = len(rows) * _ROW
    marks += x_axis([(x_of(tick), figure(tick)) for tick in ticks], bottom, "times as fast")
    legend = [("dash", "limit"), ("a", "found, with its interval")]
    return Chart("Speed-up over the dense model", f"{'; '.join(told)}.", bottom + _BELOW, marks, legend)


def _limit(x: float, top: float) -> Markup:
    """A line across the bar of the row that begins at `top`, clear of the text above and below."""
    return line(across(x), top + 17, across(x), top + 33, "limit")
