from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from validation.reports.html.axes import Chart
from validation.reports.html.charts import Bar, bars, error_chart
from validation.reports.html.page import templates

SHARED: Any = templates().get_template("shared.html.jinja").module


def _parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(SHARED.draw(chart))


def _percent(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name].removesuffix("%"))


def _lines(figure: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [line for line in figure.iter("line") if line.attrib["class"].startswith(kind)]


def test_bars_are_as_long_as_their_values() -> None:
    figure = _parsed(bars("KL", "nats", [Bar("one <b>", 0.1, "a"), Bar("two", 0.3, "b", 0.2)], [("a", "hf")]))
    one, two = figure.iter("rect")
    assert _percent(two, "width") == pytest.approx(3 * _percent(one, "width"), rel=1e-3)
    (limit,) = _lines(figure, "limit")
    assert _percent(limit, "x1") == pytest.approx(2 * _percent(one, "width"), rel=1e-3)
    assert figure.findtext(".//desc") == "Bars in nats: one <b> 0.1; two 0.3."


def test_errors_are_on_a_logarithmic_scale() -> None:
    errors = [0.0, *(10.0 ** (layer - 6) for layer in range(4)), None]
    layers = [None, 0, 1, 2, 3, None]
    taps = [
        {"name": f"tap {layer}", "layer": layer, "sublayer": "mlp", "error": error}
        for layer, error in zip(layers, errors, strict=True)
    ]
    figure = _parsed(error_chart({"taps": taps, "first": None}))
    heights = [float(circle.attrib["cy"]) for circle in figure.iter("circle")]
    labels = [text.text for text in figure.iter("text") if text.attrib["x"] == "-6"]
    ticks = dict(zip(labels, (float(line.attrib["y1"]) for line in _lines(figure, "grid")), strict=True))
    # an error of 0 stands at the bottom
    assert heights[:5] == pytest.approx([ticks[label] for label in ("1e-6", "1e-6", "1e-5", "1e-4", "1e-3")])
    assert heights[5] == ticks["NaN, Inf"] < ticks["1e-3"]
    assert [circle.attrib["class"] for circle in figure.iter("circle")] == ["a"] * 5 + ["lost"]
