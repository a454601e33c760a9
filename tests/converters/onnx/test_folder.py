"""The folder of an ONNX model: the graph with its tokenizer and settings, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.models import write_micro_model

from converters.onnx import folder
from converters.onnx.folder import convert_folder
from seap_export.errors import EnvironmentFailure, UsageError


def test_nothing_is_left_where_the_tokenizer_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / "onnx"
    out.mkdir()
    monkeypatch.setattr(folder, "pad_on_the_right", full)
    with pytest.raises(EnvironmentFailure, match="No space left on device"):
        convert_folder(model, out)
    assert list(out.iterdir()) == []


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / "onnx"
    out.mkdir()
    (out / "tokenizer.json").write_text("mine")
    with pytest.raises(UsageError, match=r"tokenizer\.json already exists"):
        convert_folder(model, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"tokenizer.json": "mine"}
