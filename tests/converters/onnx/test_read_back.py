"""The weights of a graph are the model's again when they are read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file
from support.models import write_micro_model
from support.product import BlockQuantization, TableRows, read_spec, round_weights
from support.uneven import PRUNED_LAYERS
from support.variations import micro_config

from converters.onnx import write_onnx
from converters.onnx.form import OnnxForm
from converters.onnx.format import OnnxFormat
from converters.onnx.precision import Precision, choose_precision, mixed_precision
from converters.onnx.weights.scaling import Scaling
from converters.onnx.weights.sizes import weight_bytes
from seap_export.errors import ArtifactError
from seap_export.model.families import model_spec

FORMS = {
    "fp32": OnnxForm(),
    "standard": OnnxForm(dialect="standard"),
    "fp16": OnnxForm(Precision("fp16")),
    "bf16": OnnxForm(Precision("bf16"), provider="cuda"),
    "int8": OnnxForm(choose_precision("int8", symmetric=False)),
    "symmetric": OnnxForm(choose_precision("int8")),
    "int4": OnnxForm(choose_precision("int4")),
    "w8a8": OnnxForm(choose_precision("w8a8")),
    "w4a8": OnnxForm(choose_precision("w4a8")),
    "float-embeddings": OnnxForm(choose_precision("int4", embeddings=False)),
}


def read_back(model: Path, folder: Path, form: OnnxForm) -> dict[str, torch.Tensor]:
    """What is read after writing."""
    folder.mkdir()
    write_onnx(model, folder, form)
    spec = read_spec(model)
    return OnnxFormat.of(form).weights(folder, spec).read(load_file(model / "model.safetensors"))


def wanted(model: Path, form: OnnxForm) -> dict[str, torch.Tensor]:
    """The model's weights, rounded by the same levels; 16 bits round what is not quantised."""
    stored = load_file(model / "model.safetensors")
    change = round_weights(read_spec(model), form.precision)
    rounded = {name: tensor.float() for name, tensor in stored.items()}
    return rounded if change is None else change(rounded)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form(tmp_path: Path, form: OnnxForm) -> None:
    model = write_micro_model(tmp_path / "m", model_type="qwen2", hidden_size=64, **PRUNED_LAYERS)
    tensors = read_back(model, tmp_path / "onnx", form)
    for name, tensor in wanted(model, form).items():
        allowed = 0.0 if form.precision.dtype == "fp32" else 2e-2 * float(tensor.abs().max())
        assert float((tensors[name] - tensor).abs().max()) <= allowed, name


@pytest.mark.parametrize(
    ("values", "form"),
    [
        ({"model_type": "llama"}, "fp32"),
        ({"model_type": "llama", "tie_word_embeddings": True}, "symmetric"),
        ({"model_type": "llama", "tie_word_embeddings": True}, "fp16"),
        ({"model_type": "llama", "tie_word_embeddings": True}, "int4"),
        ({"model_type": "llama", "tie_word_embeddings": True}, "w8a8"),
        ({"model_type": "llama", "tie_word_embeddings": True}, "w4a8"),
        ({"model_type": "qwen3_moe", "moe_intermediate_size": 20}, "symmetric"),  # no whole blocks
        ({"model_type": "qwen3_moe", "moe_intermediate_size": 20}, "float-embeddings"),
    ],
)
def test_weights_take_as_many_bytes_as_their_shapes_tell(tmp_path: Path, values: dict[str, Any], form: str) -> None:
    model, folder = write_micro_model(tmp_path / "m", **values), tmp_path / "onnx"
    read_back(model, folder, FORMS[form])
    stored = sum(len(item.raw_data) for item in onnx.load(folder / "model.onnx").graph.initializer)
    told = weight_bytes(read_spec(model), FORMS[form].precision)
    # rows of zero points end in whole bytes
    assert told == pytest.approx(stored, rel=0.09 if form == "w4a8" else 0.08)


@pytest.mark.parametrize(("rows", "tied", "tables"), [(1100, True, 1), (1100, False, 2), (1000, False, 0)])
def test_places_of_rows_count(rows: int, tied: bool, tables: int) -> None:
    spec = model_spec(micro_config(model_type="llama", tie_word_embeddings=tied, vocab_size=rows))
    precision = mixed_precision(4.5)
    assert precision.quantization is not None
    alike = replace(precision, quantization=replace(precision.quantization, splits_tables=False))
    assert weight_bytes(spec, precision) - weight_bytes(spec, alike) == tables * 4 * rows


def test_powers_of_two_are_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("converters.onnx.onnx_writer.find_scaling", lambda *_: Scaling(stream=3))
    model = write_micro_model(tmp_path / "m", model_type="gemma2")
    tensors = read_back(model, tmp_path / "onnx", OnnxForm(Precision("fp16")))
    for name, tensor in load_file(model / "model.safetensors").items():
        assert float((tensors[name] - tensor).abs().max()) <= 2e-3 * float(tensor.abs().max() + 1), name


def test_a_file_with_several_hard_links_is_read(tmp_path: Path) -> None:
    """As backups make them; onnx_ir refuses it."""
    model = write_micro_model(tmp_path / "m", model_type="llama")
    read_back(model, tmp_path / "onnx", OnnxForm())
    (tmp_path / "backup").hardlink_to(tmp_path / "onnx" / "model.onnx.data")
    weights = OnnxFormat("fp32").weights(tmp_path / "onnx", read_spec(model))
    for name, tensor in wanted(model, OnnxForm()).items():
        assert torch.equal(weights.read([name])[name], tensor), name


def test_rows_without_a_place_are_damage(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama")
    name, spec = "lm_head.weight", read_spec(model)
    table = TableRows(name, 64, ("84" * spec.vocab_size)[: spec.vocab_size])
    form = OnnxForm(Precision("fp32", BlockQuantization(4, average=4.5, splits_tables=True, tables=(table,))))
    rows, wanted = read_back(model, tmp_path / "onnx", form)[name], load_file(model / "model.safetensors")[name]
    assert (rows - wanted).norm() < 0.1 * wanted.norm()
    path = tmp_path / "onnx" / "model.onnx"
    graph = onnx.load(path)
    places = next(tensor for tensor in graph.graph.initializer if tensor.name == f"{name}.places")
    numbers = onnx.numpy_helper.to_array(places).copy()
    numbers[0] = numbers[1]
    places.CopyFrom(onnx.numpy_helper.from_array(numbers, places.name))
    onnx.save(graph, path)
    with pytest.raises(ArtifactError, match=f"'{name}' has rows without a place; export again"):
        OnnxFormat.of(form).weights(path.parent, spec).read([name])
