"""The folder of an ONNX model: the graph with its tokenizer and settings, or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.models import write_micro_model
from transformers import AutoTokenizer

from converters.onnx import folder
from converters.onnx.folder import convert_folder
from seap_export.common.json_file import read_json, write_json
from seap_export.errors import EnvironmentFailure


def test_nothing_is_left_where_the_tokenizer_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / "onnx"
    out.mkdir()
    monkeypatch.setattr(folder, "write_files", full)
    with pytest.raises(EnvironmentFailure, match="No space left on device"):
        convert_folder(model, out)
    assert list(out.iterdir()) == []


def _written_tokenizer(model: Path, out: Path) -> dict[str, Any]:
    out.mkdir()
    convert_folder(model, out)
    return read_json(out / "tokenizer_config.json")


def test_padding_goes_to_the_right_and_nothing_else_changes(tmp_path: Path) -> None:
    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / "onnx"
    before = read_json(model / "tokenizer_config.json")
    write_json(model / "tokenizer_config.json", before | {"padding_side": "left"})
    assert _written_tokenizer(model, out) == before | {"padding_side": "right"}
    ids = AutoTokenizer.from_pretrained(out)(["the", "the cat sat"], padding=True)["input_ids"]
    assert ids[0][1:] == [0, 0]


def test_padding_on_the_right_needs_no_tokenizer_config(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "hf", model_type="llama")
    (model / "tokenizer_config.json").unlink()
    assert _written_tokenizer(model, tmp_path / "onnx") == {"padding_side": "right"}


def test_each_small_file_of_another_model_is_damage(tmp_path: Path) -> None:
    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / "onnx"
    out.mkdir()
    convert_folder(model, out)
    assert list(folder.folder_damages(model, out)) == []
    genai = read_json(out / "genai_config.json")
    write_json(out / "genai_config.json", genai, indent=4)
    (model / "vocab.json").write_text("{}")
    (out / "merges.txt").write_text("a b")
    (out / "tokenizer.json").write_bytes((out / "tokenizer.json").read_bytes() + b"\n")
    assert [line.split(": ")[0] for line in folder.folder_damages(model, out)] == [
        str(out / name) for name in ("tokenizer.json", "vocab.json", "merges.txt")
    ]
    genai["model"]["decoder"]["head_size"] = 3
    write_json(out / "genai_config.json", genai)
    *_, line = folder.folder_damages(model, out)
    assert "genai_config.json" in line
    assert "'model.decoder.head_size'" in line
