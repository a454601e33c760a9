from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.product import Silent

from seap_export.common.memory import peak_memory
from seap_export.pipeline.folder.manifest import MANIFEST
from seap_export.pipeline.folder.performance import (
    PERFORMANCE,
    Performance,
    StepFigures,
    Timed,
    read_performance,
    recorded,
)


class Spoken(Silent):
    def __init__(self) -> None:
        self.labels: list[str] = []

    def step(self, label: str, total: int | None = None, unit: str = "layers", *, name: str | None = None) -> Any:
        self.labels.append(label)
        return super().step(label, total, unit)


def test_planned_steps_are_numbered_and_recorded() -> None:
    spoken = Spoken()
    timed = Timed(spoken)
    timed.planned = ["first", "skipped", "third"]
    with timed.step("doing the first", name="first"):
        pass
    with timed.step("doing the third", 3, name="third") as advance:
        advance(0)
    with timed.step("something small"):
        pass
    assert spoken.labels == ["[1/3] doing the first", "[3/3] doing the third", "something small"]
    assert list(timed.steps) == ["first", "third"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux keeps a peak for each step")
def test_the_peak_of_a_step_is_its_own() -> None:
    timed = Timed(Silent())
    with timed.step("much", name="much"):
        np.ones(40_000_000).sum()
    with timed.step("little", name="little"):
        pass
    much, little = timed.steps["much"].peak_bytes, timed.steps["little"].peak_bytes
    assert much is not None
    assert little is not None
    assert much - little > 200e6
    assert (peak_memory() or 0) < much


def test_figures_are_read_as_they_were_written(tmp_path: Path) -> None:
    performance = Performance({"a": StepFigures(1.5, None)}, {"a-0.2": {"onnx": "key", "figures": {}}})
    performance.write(tmp_path)
    assert read_performance(tmp_path) == performance


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"schema": "other"})])
def test_what_cannot_be_read_is_no_figure(tmp_path: Path, text: str) -> None:
    (tmp_path / PERFORMANCE).write_text(text, "utf-8")
    assert read_performance(tmp_path) == Performance()


def _stopped(folder: Path, error: BaseException) -> None:
    """A run that finishes one step, measures a variant, and fails."""
    timed = Timed(Silent())
    with recorded(folder, timed) as performance:
        with timed.step("doing the second", name="second"):
            pass
        performance.speed["a-0.2"] = {"figures": {}}
        raise error


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), SystemExit(143)])
def test_a_run_that_stops_records_what_it_has_finished(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    Performance({"first": StepFigures(1.5, None)}).write(tmp_path)
    with pytest.raises(type(error)):
        _stopped(tmp_path, error)
    performance = read_performance(tmp_path)
    assert performance.steps.keys() == {"first", "second"}
    assert performance.speed == {"a-0.2": {"figures": {}}}
