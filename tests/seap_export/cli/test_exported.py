"""What `export` prints when it is done, from reports made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from seap_export.cli.exported import no_gains, step_table
from seap_export.pipeline.folder.performance import StepFigures


def _exported(size: int, dense_size: int | None, low: float, high: float | None) -> Any:
    figures = {f"{what}_{key}": low for what in ("decode", "prefill") for key in ("speedup", "share_of_ideal")}
    cell = {**figures, "decode_speedup_high": high, "prefill_speedup_high": 1.2}
    variant = {
        "requested_ratio": 0.2,
        "bytes": {"onnx": size},
        "dense_bytes": {"onnx": dense_size},
        "speed": {"variant": [cell]},
    }
    return SimpleNamespace(variants={"a-0.2": {}}, report=SimpleNamespace(variants={"a-0.2": variant}))


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


def test_steps_are_summed_up_by_kind() -> None:
    steps = {
        "calibration": StepFigures(61.0, 500_000_000),
        "a-0.2/hf": StepFigures(2.0, None),
        "b-0.2/hf": StepFigures(3.0, 700_000_000),
    }
    rows = [line.split() for line in step_table(steps).splitlines()[1:]]
    assert rows == [
        ["calibration", "1", "1", "min", "1", "s", "500.0", "MB"],
        ["shrinking", "2", "5", "s", "700.0", "MB"],
        ["all", "3", "1", "min", "6", "s", "700.0", "MB"],
    ]
