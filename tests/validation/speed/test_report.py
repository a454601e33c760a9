"""Speed-ups are against the dense model on the same engine; what is slower or no smaller is said."""

from __future__ import annotations

import pytest

from validation.speed.ideal import Work
from validation.speed.measure import Cell, Timing
from validation.speed.report import SpeedReport, SubjectFigures

CELL = Cell(2, 8)


def subject(model: str, engine: str, size: int, prefill: float, step: float, work: float) -> SubjectFigures:
    return SubjectFigures(
        model=model,
        engine=engine,  # type: ignore[arg-type]
        disk_bytes=size,
        peak_bytes=7,
        timings={CELL: Timing([prefill] * 3, [step] * 3)},
        works={CELL: Work(work, 2 * work)},
    )


@pytest.fixture
def report() -> SpeedReport:
    subjects = [
        subject("dense", "torch", 100, 8.0, 1.0, 40.0),
        subject("dense", "onnxruntime", 90, 4.0, 0.5, 40.0),
        subject("a-0.5", "torch", 60, 4.0, 1.25, 20.0),
        subject("a-0.5", "onnxruntime", 90, 2.5, 0.25, 20.0),
    ]
    return SpeedReport(subjects, [CELL], {"threads": 2})


def test_speedups(report: SpeedReport) -> None:
    on_torch, on_onnx = report.subjects[2:]
    assert (report.prefill(on_torch, CELL).measured, report.decode(on_torch, CELL).measured) == (2.0, 0.8)
    decode = report.decode(on_onnx, CELL)
    assert (decode.measured, decode.ideal, decode.share) == (2.0, 2.0, 1.0)
    assert report.prefill(on_onnx, CELL).share == pytest.approx(0.8)


def test_what_is_no_better_is_said(report: SpeedReport) -> None:
    assert report.complaints == [
        "a-0.5 on torch: decode is slower than the dense model (batch 2, 8 tokens: 0.80x)",
        "a-0.5 on onnxruntime is no smaller than the dense model",
    ]


def test_in_json(report: SpeedReport) -> None:
    values = report.to_json()
    assert (values["schema"], values["setting"]) == ("seap-export/bench/1", {"threads": 2})
    assert values["complaints"] == report.complaints
    own = values["subjects"][3]
    assert {key: own[key] for key in ("model", "engine", "disk_bytes", "peak_bytes")} == {
        "model": "a-0.5",
        "engine": "onnxruntime",
        "disk_bytes": 90,
        "peak_bytes": 7,
    }
    (cell,) = own["cells"]
    assert (cell["batch"], cell["depth"], cell["decode_tokens_per_s"], cell["decode_speedup"]) == (2, 8, 8.0, 2.0)
