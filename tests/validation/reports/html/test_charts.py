from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from validation.reports.html.axes import Chart
from validation.reports.html.charts import Bar, bars, error_chart, interval_chart
from validation.reports.html.page import templates

SHARED: Any = templates().get_template("shared.html.jinja").module


def _parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(SHARED.draw(chart))


def _percent(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name].removesuffix("%"))


def _texts(figure: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in figure.iter("text")]


def _ticks(figure: ElementTree.Element) -> dict[str, float]:
    """Heights of the lines across the chart, by their labels."""
    lines = [float(line.attrib["y1"]) for line in figure.iter("line") if line.attrib["class"] == "grid"]
    labels = [text.text or "" for text in figure.iter("text") if text.attrib["x"] == "-6"]
    return dict(zip(labels, lines, strict=True))


def test_bars_are_as_long_as_their_values() -> None:
    figure = _parsed(bars("KL", "nats", [Bar("one <b>", 0.1, "a"), Bar("two", 0.3, "b", 0.2)], [("a", "hf")]))
    one, two = figure.iter("rect")
    assert _percent(two, "width") == pytest.approx(3 * _percent(one, "width"), rel=1e-3)
    assert (one.attrib["class"], two.attrib["class"]) == ("a", "b")
    (limit,) = (line for line in figure.iter("line") if line.attrib["class"] == "limit")
    assert _percent(limit, "x1") == pytest.approx(2 * _percent(one, "width"), rel=1e-3)
    assert _texts(figure)[:2] == ["one <b>: 0.1 nats", "two: 0.3 nats"]
    assert figure.findtext(".//desc") == "Bars in nats: one <b> 0.1; two 0.3."


def _tap(name: str, layer: int | None, error: float | None) -> dict[str, Any]:
    return {"name": name, "layer": layer, "sublayer": "mlp", "error": error}


def _errors(taps: list[dict[str, Any]], first: int | None) -> ElementTree.Element:
    return _parsed(error_chart({"taps": taps, "first": None if first is None else taps[first]}))


TAPS = [
    _tap("embedding", None, 0.0),
    *(_tap(f"layers.{layer}", layer, 10.0 ** (layer - 6)) for layer in range(4)),
    _tap("head", None, None),
]


def test_errors_are_on_a_logarithmic_scale() -> None:
    figure = _errors(TAPS, None)
    heights = [float(circle.attrib["cy"]) for circle in figure.iter("circle")]
    ticks = _ticks(figure)
    assert heights[1:5] == pytest.approx([ticks["1e-6"], ticks["1e-5"], ticks["1e-4"], ticks["1e-3"]])
    assert heights[0] == ticks["1e-6"]  # an error of 0 stands at the bottom
    assert heights[5] == ticks["NaN, Inf"] < ticks["1e-3"]
    assert [circle.attrib["class"] for circle in figure.iter("circle")] == ["a"] * 5 + ["lost"]
    assert [circle.findtext("title") for circle in figure.iter("circle")][4:] == [
        "layers.3: 0.001",
        "head: not finite",
    ]
    assert len([line for line in figure.iter("line") if line.attrib["class"] == "path"]) == 4
    assert [text for text in _texts(figure) if text.isdigit()] == ["0", "1", "2", "3"]
    assert "None diverges by itself." in (figure.findtext(".//desc") or "")


def test_intervals_stand_beside_their_limits() -> None:
    case = {"batch": 1, "depth": 128, "limit": 1.0}
    decode = {"figure": "decode_speedup", "found": 1.2, "low": 1.1, "high": 1.4, "verdict": "passed"}
    prefill = {"figure": "prefill_speedup", "found": 0.8, "low": None, "high": None, "verdict": "too noisy"}
    size = {"figure": "bytes_ratio", "found": 9.0, "low": None, "high": None, "verdict": "failed"}
    assert interval_chart([case | size]) is None
    figure = _parsed(interval_chart([case | decode, case | prefill, case | size]))
    dots = [_percent(dot, "cx") for dot in figure.iter("circle")]
    limits = [line for line in figure.iter("line") if line.attrib["class"] == "limit"]
    (span,) = (line for line in figure.iter("line") if line.attrib["class"].startswith("range"))
    assert dots[1] < _percent(limits[0], "x1") == _percent(limits[1], "x1") < _percent(span, "x1") < dots[0]
    assert dots[0] < _percent(span, "x2")
    assert [dot.attrib["class"] for dot in figure.iter("circle")] == ["dot passed", "dot too"]
