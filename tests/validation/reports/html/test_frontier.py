from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from validation.reports.html.frontier import frontier_chart
from validation.reports.html.page import templates

SHARED: Any = templates().get_template("shared.html.jinja").module

TARGETS = {"size": 60_000_000, "decode_speedup": None, "max_kl": 0.3}


def point(precision: str, ratio: float, size: int, kl: float, **values: Any) -> dict[str, Any]:
    known = {
        "variant": f"a-{ratio:g}",
        "ratio": ratio,
        "format": "onnx",
        "precision": precision,
        "bytes": size,
        "key": "k",
        "vocabulary": "all",
    }
    figures = {"mean_kl_nats": kl, "top1_agreement": 0.9, "decode_ideal_speedup": 2.0, "decode_speedup": None}
    return {**known, **figures, "beaten": False, "chosen": False, **values}


POINTS = [
    point("int4", 0.4, 58_000_000, 0.25, chosen=True),
    point("int4", 0.0, 90_000_000, 0.2),
    point("int8", 0.5, 95_000_000, 0.4, beaten=True, decode_speedup=1.75),
    point("fp32", 0.0, 540_000_000, 0.0, key=None),
]


def chart(targets: dict[str, Any] = TARGETS) -> ElementTree.Element:
    return drawn("a <b>", POINTS, targets)


def drawn(*of: Any) -> ElementTree.Element:
    return ElementTree.fromstring(SHARED.draw(frontier_chart(*of)))


def circles(figure: ElementTree.Element) -> list[dict[str, str]]:
    return [circle.attrib for circle in figure.iter("circle")]


def test_points_lie_by_size_and_kl_and_the_choice_has_a_ring() -> None:
    ring, *points = circles(chart())
    assert [point["class"] for point in points] == ["a", "b", "beaten", "b"]
    assert (ring["class"], ring["cx"], ring["cy"]) == ("ring", points[0]["cx"], points[0]["cy"])
    offsets = [float(point["cx"].removesuffix("%")) for point in points]
    assert offsets == sorted(offsets)
    assert offsets[1] - offsets[0] > 5 * (offsets[2] - offsets[1])  # logarithmic
    heights = [float(point["cy"]) for point in points]
    assert heights[2] < heights[0] < heights[1] < heights[3]
    assert (heights[3] - heights[0]) / (heights[3] - heights[1]) == pytest.approx(0.25 / 0.2, rel=1e-3)


def test_a_line_joins_what_nothing_beats_and_dashes_are_the_targets() -> None:
    lines = [line.attrib["class"] for line in chart().iter("line")]
    assert (lines.count("path"), lines.count("limit")) == (2, 2)
    far = {"size": 1_000, "decode_speedup": 2.0, "max_kl": 7.0}
    assert "limit" not in [line.attrib["class"] for line in chart(far).iter("line")]
    assert "limit" not in [line.attrib["class"] for line in chart(dict.fromkeys(TARGETS)).iter("line")]
