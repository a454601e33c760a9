"""whole.json is read as it was written, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seap_export.common.json_file import read_json, write_json
from seap_export.pipeline.folder.whole import WHOLE, read_whole, write_whole

MODEL: dict[str, Any] = {
    "task": "a",
    "precision": "int4",
    "beside": "int8",
    "options": {},
    "refusal": "",
    "command": "seap-export export m",
    "statistics": {"calibration/a": "k"},
    "key": "k",
    "bytes": 7,
    "quality": None,
}


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_whole(tmp_path) == {}
    write_whole({"b": MODEL, "a": MODEL}, tmp_path)
    assert read_whole(tmp_path) == {"a": MODEL, "b": MODEL}


@pytest.mark.parametrize("change", [{"bytes": "7"}, {"quality": 1}, {"key": None}, {"statistics": []}])
def test_a_file_that_was_changed_counts_as_missing(tmp_path: Path, change: dict[str, Any]) -> None:
    write_whole({"a": MODEL | change}, tmp_path)
    assert read_whole(tmp_path) == {}


@pytest.mark.parametrize("values", [{"schema": "seap-export/whole/0"}, {"models": []}, {"models": {"a": 1}}])
def test_a_file_of_another_kind_counts_as_missing(tmp_path: Path, values: dict[str, Any]) -> None:
    write_whole({"a": MODEL}, tmp_path)
    write_json(tmp_path / WHOLE, read_json(tmp_path / WHOLE) | values)
    assert read_whole(tmp_path) == {}
    (tmp_path / WHOLE).write_text("{")
    assert read_whole(tmp_path) == {}
