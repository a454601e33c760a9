"""The speed gate passes and fails only what the runs support. All times are made up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest

from seap_export.errors import UsageError
from validation.speed.gate import SpeedLimits, SpeedVerdict, judge_speed
from validation.speed.ideal import ModelWork
from validation.speed.measure import SpeedCell, Timing
from validation.speed.report import SpeedReport, SubjectFigures

CELL, DEEP = SpeedCell(1, 128), SpeedCell(1, 512)
STEADY = (1.0, 1.01, 0.99, 1.0, 1.005)


def subject(
    model: str, runs: Sequence[float], *, size: int = 100, engine: str = "onnxruntime", cells: Sequence[Any] = (CELL,)
) -> SubjectFigures:
    """A model whose runs have steps around these medians, and prefills ten times as long."""
    steps = [run * factor for run in runs for factor in (0.98, 1.0, 1.5)]
    timings = {cell: Timing([10 * run for run in runs], list(steps)) for cell in cells}
    return SubjectFigures(model, engine, size, 1, timings, dict.fromkeys(cells, ModelWork(1.0, 1.0)))  # type: ignore[arg-type]


def report(*variants: SubjectFigures, dense: Sequence[float] = STEADY) -> SpeedReport:
    cells = tuple(variants[0].timings) if variants else (CELL,)
    return SpeedReport([subject("dense", dense, cells=cells), *variants], cells, {})


def faster(factor: float, dense: Sequence[float] = STEADY, noise: float = 0.02) -> list[float]:
    """The runs of a model that is `factor` times as fast, give or take `noise`."""
    return [time / factor * (1 + noise * sign) for time, sign in zip(dense, (1, -1, 0, 0.5, -0.5), strict=True)]


def decode(variants: SpeedReport, limit: float) -> SpeedVerdict:
    (verdict,) = judge_speed(variants, SpeedLimits(min_decode_speedup=limit))
    return verdict


def test_a_speedup_is_judged_where_its_interval_is_on_one_side() -> None:
    for limit, verdict in ((1.5, "passed"), (1.6, "too noisy"), (1.7, "failed")):
        judged = decode(report(subject("a-0.5", faster(1.6))), limit)
        assert (judged.variant, judged.figure, judged.cell) == ("a-0.5", "decode_speedup", CELL)
        assert (judged.limit, judged.runs, judged.verdict) == (limit, 5, verdict)
        assert (judged.low, judged.high) == (pytest.approx(1.6 / 1.02), pytest.approx(1.6 / 0.98))
        assert judged.low < judged.measured < judged.high
    variants = report(subject("a-0.5", [0.5] * 5), dense=[1.0, 1.0, 1.0, 1.0, 1.125])
    at_an_end = [decode(variants, limit) for limit in (2.0, 2.25, 2.2501)]
    assert {(judged.low, judged.high) for judged in at_an_end} == {(2.0, 2.25)}
    assert [judged.verdict for judged in at_an_end] == ["passed", "too noisy", "failed"]


def test_runs_are_paired_so_that_what_slows_both_models_cancels() -> None:
    drifting = (1.0, 1.05, 1.1, 1.15, 1.2)
    verdict = decode(report(subject("a-0.5", faster(1.5, drifting, 0.0)), dense=drifting), 1.45)
    assert (verdict.low, verdict.high, verdict.verdict) == (pytest.approx(1.5), pytest.approx(1.5), "passed")
    shuffled = decode(report(subject("a-0.5", faster(1.5, drifting[::-1], 0.0)), dense=drifting), 1.45)
    assert shuffled.verdict == "too noisy"


@pytest.mark.parametrize("limit", [1.0, 4.0])
def test_a_machine_that_is_too_busy_judges_nothing(limit: float) -> None:
    """Although all paired speed-ups are 2."""
    busy = (1.0, 1.3, 1.0, 1.1, 1.0)
    verdict = decode(report(subject("a-0.5", faster(2.0, busy, 0.0)), dense=busy), limit)
    assert (verdict.low, verdict.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert verdict.spread == pytest.approx(0.3 / 1.15)
    assert verdict.verdict == "too noisy"
    assert re.search(r"too noisy .* 2\.00x .* 26%, more than 25%; .*--runs", verdict.result)


def test_one_verdict_for_each_variant_limit_and_cell_of_onnx_runtime() -> None:
    cells = (CELL, DEEP)
    names = [(name, engine) for name in ("a-0.5", "b-0.5") for engine in ("torch", "onnxruntime")]
    dense = subject("dense", STEADY, engine="torch", cells=cells)
    variants = report(*(subject(name, faster(2.0), engine=engine, cells=cells) for name, engine in names))
    found = SpeedReport([dense, *variants.subjects], cells, {})
    verdicts = judge_speed(found, SpeedLimits(1.5, 2.5, 0.5))
    each = [
        ("bytes_ratio", None, "failed"),
        *(one for cell in cells for one in (("decode_speedup", cell, "passed"), ("prefill_speedup", cell, "failed"))),
    ]
    assert [(verdict.variant, verdict.figure, verdict.cell, verdict.verdict) for verdict in verdicts] == [
        (name, *rest) for name in ("a-0.5", "b-0.5") for rest in each
    ]


def test_bytes_have_no_noise() -> None:
    variants = report(subject("a-0.5", [1.0, 9.0], size=60), dense=[1.0, 9.0])
    for limit, verdict in ((0.6, "passed"), (0.59, "failed")):
        (judged,) = judge_speed(variants, SpeedLimits(max_bytes_ratio=limit))
        assert (judged.measured, judged.low, judged.high, judged.verdict) == (0.6, 0.6, 0.6, verdict)


def test_what_cannot_be_judged_is_refused() -> None:
    for others in ((), (subject("a-0.5", STEADY, engine="torch"),)):
        with pytest.raises(UsageError, match="no variant was timed on onnxruntime"):
            judge_speed(report(*others), SpeedLimits(max_bytes_ratio=1.0))
    for limit in (0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="max_bytes_ratio must be a number above 0"):
            SpeedLimits(max_bytes_ratio=limit)
