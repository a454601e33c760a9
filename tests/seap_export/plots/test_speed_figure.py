"""The picture of a speed run shows each variant's measured and ideal speed-ups, by engine."""

from __future__ import annotations

import pytest

from seap_export.plots.speed_figure import speed_figure
from validation.speed.ideal import Work
from validation.speed.measure import Cell, Timing
from validation.speed.report import SpeedReport, SubjectFigures

CELLS = (Cell(1, 128), Cell(4, 128))


def subject(model: str, engine: str, prefill: float, step: float, work: float) -> SubjectFigures:
    timings = {cell: Timing([prefill * cell.batch], [step * cell.batch]) for cell in CELLS}
    works = dict.fromkeys(CELLS, Work(work, 2 * work))
    return SubjectFigures(model, engine, 1, 1, timings, works)  # type: ignore[arg-type]


@pytest.fixture
def report() -> SpeedReport:
    subjects = [
        subject("dense", "torch", 8.0, 1.0, 40.0),
        subject("dense", "onnxruntime", 6.0, 1.0, 40.0),
        subject("a-0.5", "torch", 4.0, 0.8, 20.0),
        subject("a-0.5", "onnxruntime", 2.0, 0.5, 20.0),
    ]
    return SpeedReport(subjects, CELLS, {"provider": "cpu", "threads": 2, "runs": 5})


def test_bars_are_the_measured_speedups_and_marks_the_ideal_ones(report: SpeedReport) -> None:
    figure = speed_figure(report)
    found = {
        panel.get_title(): [round(bar.get_width(), 3) for bar in panel.patches]  # type: ignore[attr-defined]
        for panel in figure.axes
    }
    assert found == {
        "time to the first token, torch": [2.0, 2.0],
        "decoding, torch": [1.25, 1.25],
        "time to the first token, ONNX Runtime": [3.0, 3.0],
        "decoding, ONNX Runtime": [2.0, 2.0],
    }
    for panel in figure.axes:
        ideal = next(line for line in panel.lines if line.get_label() == "ideal")
        assert list(ideal.get_xdata()) == [2.0, 2.0]  # type: ignore[arg-type]
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["a-0.5, 128 tokens", "a-0.5, 128 tokens x 4"]
    assert figure.get_suptitle().endswith("cpu provider, 2 threads, medians of 5 runs")
