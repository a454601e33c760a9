"""What steps took, and files of what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

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
from seap_export.pipeline.folder.whole import WHOLE, read_whole, write_whole


def test_planned_steps_are_numbered_and_recorded() -> None:
    spoken = MagicMock(wraps=Silent())
    timed = Timed(spoken)
    timed.planned = ["first", "skipped", "third"]
    with timed.step("doing the first", name="first"):
        pass
    with timed.step("doing the third", 3, name="third") as advance:
        advance(0)
    with timed.step("something small"):
        pass
    labels = [call.args[0] for call in spoken.step.call_args_list]
    assert labels == ["[1/3] doing the first", "[3/3] doing the third", "something small"]
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


MODEL: dict[str, Any] = {
    "task": "a", "precision": "int4", "beside": "int8", "options": {}, "refusal": "", "command": "export m",
    "statistics": {"calibration/a": "k"}, "key": "k", "bytes": 7, "quality": None,
}  # fmt: skip
#: A file, what it holds, its reader, and what a reader gives where there is none.
FILES: dict[str, tuple[Any, Any, Any]] = {
    PERFORMANCE: (
        Performance({"a": StepFigures(1.5, None)}, {"a-0.2": {"onnx": "key", "figures": {}}}), read_performance,
        Performance(),
    ),
    WHOLE: ({"a": MODEL, "b": MODEL}, read_whole, {}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((file, text) for file in FILES for text in (None, "", "[]", "{}", "{", {"schema": "other"})),
        *((WHOLE, {"models": models}) for models in ([], {"a": 1})),
        *((WHOLE, {"models": {"a": MODEL | change}}) for change in ({"bytes": "7"}, {"quality": 1}, {"key": None})),
    ],
)
def test_what_is_written_is_read_and_what_is_damaged_counts_as_missing(tmp_path: Path, file: str, damage: Any) -> None:
    content, read, nothing = FILES[file]
    assert read(tmp_path) == nothing
    content.write(tmp_path) if file == PERFORMANCE else write_whole(content, tmp_path)
    assert read(tmp_path) == content
    if damage is not None:
        values = json.loads((tmp_path / file).read_text("utf-8"))
        (tmp_path / file).write_text(damage if isinstance(damage, str) else json.dumps(values | damage), "utf-8")
        assert read(tmp_path) == nothing


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
