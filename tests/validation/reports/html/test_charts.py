from __future__ import annotations

from xml.etree import ElementTree

import pytest

from validation.reports.html.axes import floor_ticks, round_ticks, steps
from validation.reports.html.charts import Bar, ErrorPoint, JudgedFigure, bars, columns, errors, intervals


def _parsed(figure: str) -> ElementTree.Element:
    return ElementTree.fromstring(figure)


def _percent(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name].removesuffix("%"))


def _texts(figure: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in figure.iter("text")]


def _ticks(figure: ElementTree.Element) -> dict[str, float]:
    """Heights of the lines across the chart, by their labels."""
    lines = [float(line.attrib["y1"]) for line in figure.iter("line") if line.attrib["class"] == "grid"]
    labels = [text.text or "" for text in figure.iter("text") if text.attrib["x"] == "-6"]
    return dict(zip(labels, lines, strict=True))


@pytest.mark.parametrize(
    ("top", "ticks"),
    [
        (1.0, [0, 0.5, 1.0]),
        (0.316, [0, 0.1, 0.2, 0.3, 0.4]),
        (100.0, [0, 50, 100]),
        (1536.0, [0, 500, 1000, 1500, 2000]),
        (3e-7, [0, 1e-7, 2e-7, 3e-7]),
        (2e-17, [0, 5e-18, 1e-17, 1.5e-17, 2e-17]),
    ],
)
def test_round_ticks(top: float, ticks: list[float]) -> None:
    assert round_ticks(top) == pytest.approx(ticks, abs=1e-30)


def test_floor_ticks_span_what_they_must() -> None:
    assert floor_ticks(0.93, 1.31) == pytest.approx([0.9, 1.0, 1.1, 1.2, 1.3, 1.4])
    low, *_, high = floor_ticks(1.0, 1.0)
    assert low <= 1.0 < high


def test_steps_leave_room_for_labels() -> None:
    assert steps(5) == [0, 1, 2, 3, 4]
    assert steps(30) == [0, 5, 10, 15, 20, 25]
    assert steps(0) == []
    assert all(len(steps(number)) <= 8 for number in range(1000))


def test_bars_are_as_long_as_their_values() -> None:
    figure = _parsed(bars("KL", "nats", [Bar("one <b>", 0.1, "a"), Bar("two", 0.3, "b", 0.2)], [("a", "hf")]))
    one, two = figure.iter("rect")
    assert _percent(two, "width") == pytest.approx(3 * _percent(one, "width"), rel=1e-3)
    assert (one.attrib["class"], two.attrib["class"]) == ("a", "b")
    (limit,) = (line for line in figure.iter("line") if line.attrib["class"] == "limit")
    assert _percent(limit, "x1") == pytest.approx(2 * _percent(one, "width"), rel=1e-3)
    assert _texts(figure)[:2] == ["one <b>: 0.1 nats", "two: 0.3 nats"]
    assert figure.findtext(".//desc") == "Bars in nats: one <b> 0.1; two 0.3."


def test_limit_far_beyond_the_bars_does_not_press_them_flat() -> None:
    figure = _parsed(bars("KL", "nats", [Bar("one", 0.1, "a", 50.0)], []))
    (bar,) = figure.iter("rect")
    assert _percent(bar, "width") > 90
    assert not [line for line in figure.iter("line") if line.attrib["class"] == "limit"]


def test_bars_of_nothing_but_zeros() -> None:
    (bar,) = _parsed(bars("KL", "nats", [Bar("one", 0.0, "a")], [])).iter("rect")
    assert _percent(bar, "width") == 0


def test_columns_are_as_high_as_their_values() -> None:
    series = [("a", "query heads", [9.0, 6.0, 3.0]), ("b", "KV heads", [3.0, 2.0, 1.0])]
    figure = _parsed(columns("Heads", "heads", series, 0.0))
    heights = [float(rect.attrib["height"]) for rect in figure.iter("rect")]
    assert [height / heights[2] for height in heights] == pytest.approx([3, 2, 1, 1, 2 / 3, 1 / 3], rel=1e-3)
    bottoms = {round(float(rect.attrib["y"]) + float(rect.attrib["height"]), 1) for rect in figure.iter("rect")}
    ticks = _ticks(figure)
    assert bottoms == {ticks["0"]}
    assert [tick for tick in ticks if tick != "0"] == ["5", "10"]
    assert {"0", "1", "2", "layer", "heads"} <= set(_texts(figure))
    said = "3 layers: query heads from 3 to 9; KV heads from 1 to 3 (heads)."
    assert figure.findtext(".//desc") == said


TAPS = [
    ErrorPoint("embedding", None, 0.0),
    *(ErrorPoint(f"layers.{layer}", layer, 10.0 ** (layer - 6)) for layer in range(4)),
    ErrorPoint("head", None, None),
]


def test_errors_are_on_a_logarithmic_scale() -> None:
    figure = _parsed(errors("Error", TAPS, None, ""))
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


def test_first_to_diverge_is_marked_and_named() -> None:
    figure = _parsed(errors("Error", TAPS, 3, "layer 2, mlp"))
    (first,) = (circle for circle in figure.iter("circle") if circle.attrib["class"] == "first")
    assert first.findtext("title") == "layers.2: 1e-4"
    (pointer,) = (line for line in figure.iter("line") if line.attrib["class"] == "pointer")
    assert (pointer.attrib["x2"], pointer.attrib["y2"]) == (first.attrib["cx"], first.attrib["cy"])
    (name,) = (text for text in figure.iter("text") if text.attrib.get("class") == "first")
    assert (name.text, name.attrib["x"], name.attrib["text-anchor"]) == ("layer 2, mlp", first.attrib["cx"], "end")
    assert "The first to diverge: layer 2, mlp." in (figure.findtext(".//desc") or "")


def test_many_decades_get_few_labels() -> None:
    taps = [ErrorPoint(str(power), power, 10.0**-power) for power in range(20)]
    assert len(_ticks(_parsed(errors("Error", taps, None, "")))) <= 6


def test_errors_that_are_all_lost() -> None:
    figure = _parsed(errors("Error", [ErrorPoint("x", 0, None)], 0, "layer 0"))
    assert "NaN, Inf" in _ticks(figure)


def test_intervals_stand_beside_their_limits() -> None:
    rows = [
        JudgedFigure("decode", 1.2, 1.1, 1.4, 1.0, "passed"),
        JudgedFigure("prefill", 0.8, None, None, 1.0, "too noisy"),
    ]
    figure = _parsed(intervals("Speed-up", "times", rows))
    dots = [_percent(dot, "cx") for dot in figure.iter("circle")]
    limits = [line for line in figure.iter("line") if line.attrib["class"] == "limit"]
    (span,) = (line for line in figure.iter("line") if line.attrib["class"].startswith("range"))
    assert dots[1] < _percent(limits[0], "x1") == _percent(limits[1], "x1") < _percent(span, "x1") < dots[0]
    assert dots[0] < _percent(span, "x2")
    assert [dot.attrib["class"] for dot in figure.iter("circle")] == ["dot passed", "dot too"]
