"""The folder of an ONNX model: what is written beside the graph, and whatever differs from its model is named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from support.editing import edit_tensor
from support.formats.graph_faults import STRUCTURE, Edit
from support.models import write_micro_model, write_source
from support.product import OnnxForm, Precision, choose_precision
from transformers import AutoTokenizer

from converters.onnx.folder import convert_folder, folder_damages
from converters.onnx.stored import weight_differences
from seap_export.common.json_file import read_json, write_json
from seap_export.errors import ArtifactError


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
    assert list(folder_damages(model, out)) == []
    genai = read_json(out / "genai_config.json")
    write_json(out / "genai_config.json", genai, indent=4)
    (model / "vocab.json").write_text("{}")
    (out / "merges.txt").write_text("a b")
    (out / "tokenizer.json").write_bytes((out / "tokenizer.json").read_bytes() + b"\n")
    assert [line.split(": ")[0] for line in folder_damages(model, out)] == [
        str(out / name) for name in ("tokenizer.json", "vocab.json", "merges.txt")
    ]
    genai["model"]["decoder"]["head_size"] = 3
    write_json(out / "genai_config.json", genai)
    *_, line = folder_damages(model, out)
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


def said_of(good: tuple[Path, Path], copy: Path, edit: Edit) -> list[str]:
    """The damages of a copy with a fault."""
    source, out = good
    shutil.copytree(out, copy)
    model = onnx.load(copy / "model.onnx", load_external_data=False)
    before = model.SerializeToString()
    edit(model)
    assert model.SerializeToString() != before
    (copy / "model.onnx").write_bytes(model.SerializeToString())
    return list(folder_damages(source, copy))


@pytest.mark.parametrize(
    ("variation", "form"), zip(["llama-biases", "gemma3-all", "phi3-all"] * 2, WRITTEN, strict=True)
)
def test_what_was_written_does_not_differ(good: Written, variation: str, form: OnnxForm) -> None:
    assert list(folder_damages(*good(variation, form))) == []


@pytest.mark.parametrize(("edit", "word"), [row[1:] for row in STRUCTURE], ids=[name for name, *_ in STRUCTURE])
def test_a_fault_is_named(good: Written, tmp_path: Path, edit: Edit, word: str) -> None:
    lines = said_of(good(), tmp_path / "onnx", edit)
    assert any(word in line for line in lines), lines
    assert all("\n" not in line and line.endswith("; export again") for line in lines)


def _first_input_is_last(body: onnx.GraphProto) -> None:
    node = next(node for node in body.node if len(node.input) > 1)
    node.input[0] = node.input[-1]


@pytest.mark.parametrize(
    ("variation", "form", "change", "word"),
    [
        ("qwen3_5-all", WRITTEN[1], lambda body: setattr(body.node[-1], "op_type", "Neg"), "in the body of node"),
        ("qwen3_5-all", WRITTEN[1], lambda body: body.initializer.add(name="planted"), "different body"),
        ("gemma4-experts", WRITTEN[0], _first_input_is_last, "reads"),
    ],
    ids=["a scan's operator", "a scan's tensor", "a loop's wiring"],
)
def test_a_changed_body_of_a_loop_is_named(
    good: Written, tmp_path: Path, variation: str, form: OnnxForm, change: Callable[[Any], object], word: str
) -> None:
    def edit(model: onnx.ModelProto) -> None:
        bodies = [each.g for node in model.graph.node for each in node.attribute if each.HasField("g")]
        assert bodies
        for body in bodies:
            change(body)

    lines = said_of(good(variation, form), tmp_path / "onnx", edit)
    assert any(word in line for line in lines), lines


def test_what_says_the_same_is_taken(good: Written, tmp_path: Path) -> None:
    """Texts for people, defaults that are spelt out, and attributes in another order."""

    def edit(model: onnx.ModelProto) -> None:
        model.doc_string = model.graph.doc_string = model.graph.node[0].doc_string = "for people"
        model.producer_name, model.graph.node[0].domain = "another", ""
        attributes = list(model.graph.node[-2].attribute)
        del model.graph.node[-2].attribute[:]
        model.graph.node[-2].attribute.extend(reversed(attributes))

    assert said_of(good(), tmp_path / "onnx", edit) == []


def test_a_data_file_of_another_size_is_named(good: Written, tmp_path: Path) -> None:
    source, out = good()
    data = Path(shutil.copytree(out, tmp_path / "onnx")) / "model.onnx.data"
    content = data.read_bytes()
    for other, words in ((content[:-1], "has"), (content + b"\0", "has"), (None, "is missing")):
        data.unlink() if other is None else data.write_bytes(other)
        (line,) = folder_damages(source, data.parent)
        assert f"its data file model.onnx.data {words}" in line


@pytest.mark.parametrize(("gap", "fill", "is_taken"), [(64, 0, True), (64, 1, False), (1 << 16, 0, False)])
def test_bytes_of_no_tensor_are_those_of_alignment(
    good: Written, tmp_path: Path, gap: int, fill: int, is_taken: bool
) -> None:
    data = good()[1] / "model.onnx.data"

    def edit(model: onnx.ModelProto) -> None:
        *_, last = (each for each in model.graph.initializer if each.external_data)
        entry = next(entry for entry in last.external_data if entry.key == "offset")
        content, start = data.read_bytes(), int(entry.value)
        entry.value = str(start + gap)
        (tmp_path / "onnx" / data.name).write_bytes(content[:start] + bytes([fill]) * gap + content[start:])

    lines = said_of(good(), tmp_path / "onnx", edit)
    assert (lines == []) == is_taken, lines


def test_a_text_that_is_none_is_refused(good: Written, tmp_path: Path) -> None:
    source, out = good()
    shutil.copytree(out, tmp_path / "onnx")
    path = tmp_path / "onnx" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"layers.1.mlp.gated", b"layers.1.mlp.\xff\xfe\xfd\xfc\xfb"))
    with pytest.raises(ArtifactError, match="not UTF-8"):
        list(folder_damages(source, tmp_path / "onnx"))


def differences(written: Any, form: OnnxForm) -> list[str]:
    return list(weight_differences(written.source, written.folder, form))


def test_one_number_that_differs_is_named(written: Callable[..., Any]) -> None:
    graph, name = written("llama"), "model.layers.1.mlp.up_proj.weight.transposed"
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__((3, 5), values[3, 5] + 1e-3))
    (line,) = differences(graph, OnnxForm())
    assert line.startswith(f"'{name}' differs from the model's in 1 numbers")
    edit_tensor(graph.folder / "model.onnx", name, lambda values: values.__setitem__((3, 5), np.nan))
    assert differences(graph, OnnxForm()) == [f"'{name}' holds NaN or infinite values"]


def test_one_row_of_a_quantised_weight_is_named(written: Callable[..., Any]) -> None:
    form, name = OnnxForm(choose_precision("int4", symmetric=False)), "model.layers.1.mlp.up_proj.weight"
    graph = written("llama", precision=form.precision)
    before = (graph.folder / "model.onnx.data").read_bytes()
    for part in ("packed", "scales", "zero_points"):

        def edit(values: np.ndarray, part: str = part) -> None:
            values[7] = values[7] * 1.1 if part == "scales" else values[7] ^ 1

        edit_tensor(graph.folder / "model.onnx", f"{name}.{part}", edit)
        (line,) = differences(graph, form)
        assert f"'{name}'" in line
        assert line.endswith("row 7")
        (graph.folder / "model.onnx.data").write_bytes(before)
