"""A graph file against the graph that its model gives: whatever differs is named, in one line each."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from support.formats.graph_faults import STRUCTURE, Edit
from support.models import write_source
from support.product import OnnxForm, Precision, choose_precision, convert_folder

from converters.onnx.folder import folder_damages
from seap_export.errors import ArtifactError

Written = Callable[..., tuple[Path, Path]]
FORMS = [
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

    def make(variation: str = "llama-biases", form: OnnxForm = FORMS[0]) -> tuple[Path, Path]:
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
    ("variation", "form"), zip(["llama-biases", "gemma3-all", "phi3-all"] * 2, FORMS, strict=True)
)
def test_what_was_written_does_not_differ(good: Written, variation: str, form: OnnxForm) -> None:
    assert list(folder_damages(*good(variation, form))) == []


@pytest.mark.parametrize(("edit", "word"), [row[1:] for row in STRUCTURE], ids=[name for name, *_ in STRUCTURE])
def test_a_fault_is_named(good: Written, tmp_path: Path, edit: Edit, word: str) -> None:
    lines = said_of(good(), tmp_path / "onnx", edit)
    assert any(word in line for line in lines), lines
    assert all("\n" not in line and line.endswith("; export again") for line in lines)


def _in_bodies(change: Callable[[onnx.GraphProto], object]) -> Edit:
    """Changes the bodies of loops."""

    def edit(model: onnx.ModelProto) -> None:
        attributes = [each for node in model.graph.node for each in node.attribute]
        bodies = [each.g for each in attributes if each.HasField("g")]
        assert bodies
        for body in bodies:
            change(body)

    return edit


def _first_input_is_last(body: onnx.GraphProto) -> None:
    node = next(node for node in body.node if len(node.input) > 1)
    node.input[0] = node.input[-1]


def _another_input(body: onnx.GraphProto) -> None:
    body.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE


@pytest.mark.parametrize(
    ("variation", "form", "change", "word"),
    [
        ("qwen3_5-all", FORMS[1], lambda body: setattr(body.node[-1], "op_type", "Neg"), "in the body of node"),
        ("qwen3_5-all", FORMS[1], lambda body: body.initializer.add(name="planted"), "different body"),
        ("gemma4-experts", FORMS[0], _first_input_is_last, "reads"),
        ("gemma4-experts", FORMS[0], _another_input, "different body"),
    ],
    ids=["a scan's operator", "a scan's tensor", "a loop's wiring", "a loop's type"],
)
def test_a_changed_body_of_a_loop_is_named(
    good: Written,
    tmp_path: Path,
    variation: str,
    form: OnnxForm,
    change: Callable[[onnx.GraphProto], object],
    word: str,
) -> None:
    lines = said_of(good(variation, form), tmp_path / "onnx", _in_bodies(change))
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


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda data: data[:-1], "bytes and not"), (lambda data: data + b"\0", "bytes and not"), (None, "missing")],
    ids=["short", "long", "none"],
)
def test_a_data_file_of_another_size_is_named(
    good: Written, tmp_path: Path, change: Callable[[bytes], bytes] | None, words: str
) -> None:
    source, out = good()
    shutil.copytree(out, tmp_path / "onnx")
    data = tmp_path / "onnx" / "model.onnx.data"
    data.unlink() if change is None else data.write_bytes(change(data.read_bytes()))
    (line,) = folder_damages(source, tmp_path / "onnx")
    assert f"its data file model.onnx.data {'is' if change is None else 'has'}" in line
    assert words in line


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
