"""The folder of an ONNX model: the graph with its tokenizer and settings, or nothing."""

from __future__ import annotations

from pathlib import Path

from support.models import write_micro_model
from transformers import AutoTokenizer

from converters.onnx import folder
from converters.onnx.folder import convert_folder
from seap_export.common.json_file import read_json, write_json


def test_padding_goes_to_the_right_and_nothing_else_changes(tmp_path: Path) -> None:
    model, out = write_micro_model(tmp_path / "hf", model_type="llama"), tmp_path / "onnx"
    before = read_json(model / "tokenizer_config.json")
    write_json(model / "tokenizer_config.json", before | {"padding_side": "left"})
    out.mkdir()
    convert_folder(model, out)
    assert read_json(out / "tokenizer_config.json") == before | {"padding_side": "right"}
    ids = AutoTokenizer.from_pretrained(out)(["the", "the cat sat"], padding=True)["input_ids"]
    assert ids[0][1:] == [0, 0]
    (model / "tokenizer_config.json").unlink()
    (tmp_path / "without").mkdir()
    convert_folder(model, tmp_path / "without")
    assert read_json(tmp_path / "without" / "tokenizer_config.json") == {"padding_side": "right"}


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
