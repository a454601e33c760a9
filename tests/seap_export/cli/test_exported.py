"""What `export` prints when it is done, from reports made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from support.product import Interval

from seap_export.cli.commands.bench import speedup_cells
from seap_export.cli.exported import no_gains
from validation.speed.report import Speedup


def _exported(size: int, dense_size: int | None, low: float, high: float | None) -> Any:
    figures = {f"{what}_{key}": low for what in ("decode", "prefill") for key in ("speedup", "share_of_ideal")}
    cell = {**figures, "decode_speedup_high": high, "prefill_speedup_high": 1.2}
    variant = {
        "requested_ratio": 0.2,
        "bytes": {"onnx": size},
        "dense_bytes": {"onnx": dense_size},
        "speed": {"variant": [cell]},
    }
    return SimpleNamespace(variants={"a-0.2": {}}, described={"a-0.2": variant})


@pytest.mark.parametrize(
    ("exported", "words"),
    [
        (_exported(80, 100, 1.1, 1.2), []),
        (_exported(80, None, 0.9, 1.1), []),  # perhaps slower, perhaps not
        (_exported(80, 100, 0.9, None), []),
        (_exported(100, 100, 1.1, 1.2), ["no smaller"]),
        (_exported(80, 100, 0.8, 0.9), ["decode is slower"]),
    ],
)
def test_variants_without_a_gain_are_named(exported: Any, words: list[str]) -> None:
    lines = list(no_gains(exported))
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.02, 1.29, "1.10x (1.02 to 1.29)"),
        (0.98, 1.0, "no speed-up (0.98 to 1.00)"),
        (None, None, "1.10x (no interval)"),
    ],
)
def test_a_speedup_has_its_interval(low: float | None, high: float | None, words: str) -> None:
    speedup = Speedup(1.1, 1.2, None if low is None or high is None else Interval(low, high))
    assert speedup_cells(speedup, "a-0.2") == [words, "1.20x", "92%"]
    assert speedup_cells(speedup, "dense") == ["-", "-", "-"]
