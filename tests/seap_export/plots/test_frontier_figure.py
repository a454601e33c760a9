from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_hex

from seap_export.plots.frontier_figure import frontier_figure
from seap_export.plots.style import BLUE, ORANGE, PALE, house_style


def point(ratio: float, size: int, kl: float, *, beaten: bool = False, chosen: bool = False) -> dict[str, Any]:
    figures = {"bytes": size, "mean_kl_nats": kl, "top1_agreement": 1 - kl / 2}
    return {"ratio": ratio, "precision": "int8", "vocabulary": "all", **figures, "beaten": beaten, "chosen": chosen}


POINTS = [
    point(0.5, 50_000_000, 0.4, chosen=True),
    point(0.4, 60_000_000, 0.5, beaten=True),
    point(0, 90_000_000, 0.1),
]


def test_a_panel_for_each_task_and_measure() -> None:
    targets = {"size": 55_000_000, "decode_speedup": None, "max_kl": 0.45}
    tasks = {"a": {"points": POINTS}, "b": {"points": POINTS[2:]}, "c": {"points": []}}
    with house_style():
        figure = frontier_figure({"targets": targets, "tasks": tasks})
    assert len(figure.axes) == 4
    upper = figure.axes[0]
    assert upper.get_title() == "a"
    found = {to_hex(dots.get_facecolor()[0]): dots.get_offsets().tolist() for dots in upper.collections
             if len(dots.get_facecolor())}  # fmt: skip
    assert found == {ORANGE: [[90.0, 0.1]], BLUE: [[50.0, 0.4]], PALE: [[60.0, 0.5]]}
    assert [label.get_text() for label in upper.texts] == ["int8, 0.5", "int8"]
    assert {line.get_label() for line in upper.lines} >= {"target"}
    lower = figure.axes[2]
    assert any(dots.get_offsets().tolist() == [[50.0, 0.8]] for dots in lower.collections)
