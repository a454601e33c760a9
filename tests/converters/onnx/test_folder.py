"""The folder of an ONNX model: what is written beside the graph, and whatever differs from its model is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from support.editing import edit_tensor, set_json
from support.formats.graph_faults import STRUCTURE, Edit
from support.formats.written import complaints
from support.models import write_micro_model, write_source
from support.product import OnnxForm, Precision, choose_precision
from transformers import AutoTokenizer

from converters.onnx.folder import convert_folder
from converters.onnx.format import OnnxFormat
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
    assert said(model, out) == []
    genai = read_json(out / "genai_config.json")
    write_json(out / "genai_config.json", genai, indent=4)
    (model / "vocab.json").write_text("{}")
    (out / "merges.txt").write_text("a b")
    set_json(out / "tokenizer.json", normalizer={"type": "Lowercase"})
    assert [line.split(": ")[0] for line in said(model, out)] == [
        str(out / name) for name in ("tokenizer.json", "vocab.json", "merges.txt")
    ]
    genai["model"]["decoder"]["head_size"] = 3
    write_json(out / "genai_config.json", genai)
    line, *_ = said(model, out)
    assert "genai_config.json" in line
    assert "'model.decoder.head_size'" in line


Written = Callable[..., tuple[Path, Path]]
WRITTEN = [
    OnnxForm(),
    OnnxForm(dialect="standard"),
    OnnxForm(Precision("fp16")),
    OnnxForm(Precision("bf16"), logits="last", provider="cuda"),
    OnnxForm(choose_precision("int8"), logits="last"),
    OnnxForm(choose_precision("int4", symmetric=False, embeddings=False)),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """`good("llama-biases", form)`: a model's folder and what was written from it, once."""
    folder = tmp_path_factory.mktemp("good")

    def make(variation: str = "llama-biases", form: OnnxForm = WRITTEN[0]) -> tuple[Path, Path]:
        source, out = folder / variation, folder / f"{variation}-{hash(form)}"
        if not source.exists():
            write_source(source, variation, pruned=True)
        if not out.exists():
            out.mkdir()
            convert_folder(source, out, form)
        return source, out

    return make


def said(source: Path, folder: Path) -> list[str]:
    return complaints(OnnxFormat.read(folder), source, folder)


def said_of(good: tuple[Path, Path], copy: Path, edit: Edit) -> list[str]:
    """The damages of a copy with a fault."""
    source, out = good
    shutil.copytree(out, copy)
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    before = model.SerializeToString()
    edit(model)
    assert model.SerializeToString() != before
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    return said(source, copy)


@pytest.mark.parametrize(
    ("variation", "form"), zip(["llama-biases", "gemma3-all", "phi3-all"] * 2, WRITTEN, strict=True)
)
def test_what_was_written_does_not_differ(good: Written, variation: str, form: OnnxForm) -> None:
    assert said(*good(variation, form)) == []


@pytest.mark.parametrize("edit", [edit for _, edit in STRUCTURE], ids=[name for name, _ in STRUCTURE])
def test_a_fault_in_the_graph_is_one_line(good: Written, tmp_path: Path, edit: Edit) -> None:
    line, *_ = said_of(good(), tmp_path / "onnx", edit)
    assert re.fullmatch(r"\S+model.onnx(.data)?: .*; export again.*", line)


def test_a_data_file_of_another_size_is_named(good: Written, tmp_path: Path) -> None:
    source, out = good()
    data = Path(shutil.copytree(out, tmp_path / "onnx")) / "model.onnx.data"
    content = data.read_bytes()
    for other, words in ((content[:-1], "differs"), (content + b"\0", "differs"), (None, "missing")):
        data.unlink() if other is None else data.write_bytes(other)
        line, *_ = said(source, data.parent)
        assert f"model.onnx.data: {words}" in line


@pytest.mark.parametrize(("form", "part", "row"), [(WRITTEN[0], "transposed", 5), (WRITTEN[5], "packed", 3)])
def test_one_row_that_differs_is_named(good: Written, tmp_path: Path, form: OnnxForm, part: str, row: int) -> None:
    source, out = good("llama-biases", form)
    shutil.copytree(out, tmp_path / "onnx")
    name = "model.layers.2.mlp.up_proj.weight"

    def edit(values: np.ndarray) -> None:
        if part == "packed":
            values[3] ^= 1
        else:
            values[3, 5] += 1e-3

    edit_tensor(tmp_path / "onnx" / "model.onnx", f"{name}.{part}", edit)
    assert said(source, tmp_path / "onnx") == [f"'{name}' differs from the model's in 1 rows, for example row {row}"]
