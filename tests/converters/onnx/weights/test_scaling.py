"""Where powers of two go, what they cost in precision, and how a graph's metadata record them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from support.formats import every_exponent, write_scaled_graph
from support.models import write_micro_model
from support.product import BlockQuantization, OnnxForm, OnnxFormat, Precision, SafetensorsReader
from support.variations import micro_config

from converters.comparison import compare
from converters.onnx.weights.overflow import most_exponent
from converters.onnx.weights.quantize import QuantizedMatrix, dequantize, quantize
from converters.onnx.weights.scaling import SCALING_NOTE, ScaledReader, Scaling
from seap_export.errors import ArtifactError
from seap_export.model.families import model_spec

FP16 = Precision("fp16")
FORMS = [
    OnnxForm(FP16),
    OnnxForm(Precision("fp16", BlockQuantization(8))),
    OnnxForm(Precision("fp16", BlockQuantization(4, symmetric=False)), logits="last"),
]
LAYER = "model.layers.1."


def test_an_lm_head_of_its_own_and_a_factor_on_embeddings() -> None:
    tied, untied, multiplied = (
        model_spec(micro_config(model_type="granite", tie_word_embeddings=tied, embedding_multiplier=factor))
        for tied, factor in ((True, 1.0), (False, 1.0), (True, 3.0))
    )
    outer = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    scaled_names = [
        {name for name in Scaling(2).tensors(spec) if name in outer} for spec in (tied, untied, multiplied)
    ]
    assert scaled_names == [{"model.embed_tokens.weight", "model.norm.weight"}, {"model.embed_tokens.weight"}, set()]


def test_factors_are_exact_where_fp16_would_round(tmp_path: Path) -> None:
    """A model of fp16 is multiplied in float32, before it is quantised or cut."""
    reader = SafetensorsReader(write_micro_model(tmp_path / "m", dtype="float16", model_type="llama"))
    name = f"{LAYER}mlp.up_proj.weight"
    (exact,), (scaled,) = (each.read([name]).values() for each in (reader, ScaledReader(reader, {name: -20})))
    assert torch.equal(scaled * 2**20, exact.float())
    assert not torch.equal((exact * 2.0**-20).float() * 2**20, exact.float())


def error_of_weights(precision: Precision, exponent: int) -> float:
    """Of weights of 0.02 that are stored scaled, over their RMS."""
    weights = 0.02 * torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    scaled, how = weights * 2.0**-exponent, precision.quantization
    if how is None:
        restored = scaled.to(precision.torch_dtype).float()
    else:
        matrix = quantize(scaled, how)
        scales = matrix.scales.to(precision.torch_dtype).float()
        restored = dequantize(QuantizedMatrix(matrix.packed, scales, matrix.zero_points), how, 256)
    difference = restored * 2.0**exponent - weights
    return float(difference.square().mean().sqrt() / weights.square().mean().sqrt())


@pytest.mark.parametrize("bits", [8, 4])
def test_the_largest_exponent_adds_little_to_the_error_of_blocks(bits: int) -> None:
    precision = Precision("fp16", BlockQuantization(bits))
    most = most_exponent(precision)
    assert error_of_weights(precision, most) < 1.05 * error_of_weights(precision, 0)
    assert error_of_weights(precision, most + 2) > 1.0005 * error_of_weights(precision, most)


def test_the_largest_exponent_leaves_fp16_better_than_bf16() -> None:
    most, other = most_exponent(FP16), error_of_weights(Precision("bf16"), 0)
    assert error_of_weights(FP16, most) < 0.6 * other < other < error_of_weights(FP16, most + 1)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.precision.name)
def test_only_another_exponent_than_the_weights_have_is_named(form: OnnxForm, tmp_path: Path) -> None:
    model, folder = write_micro_model(tmp_path / "m", model_type="glm4", tie_word_embeddings=True), tmp_path / "onnx"
    folder.mkdir()
    write_scaled_graph(model, folder, form)
    assert compare(OnnxFormat.of(form), model, folder).weights == ()
    for part in ("stream", "outputs", "inputs"):
        proto = onnx.load(folder / "model.onnx", load_external_data=False)
        (entry,) = (entry for entry in proto.metadata_props if entry.key == SCALING_NOTE)
        before, values = entry.value, json.loads(entry.value)
        if part == "stream":
            values[part] += 1
        else:
            values[part][next(iter(values[part]))] += 1
        entry.value = json.dumps(values)
        onnx.save(proto, folder / "model.onnx")
        assert any(
            "differs from the model's" in line for line in compare(OnnxFormat.of(form), model, folder).weights
        ), part
        entry.value = before
        onnx.save(proto, folder / "model.onnx")


def test_a_note_is_read_back() -> None:
    scaling = every_exponent(model_spec(micro_config(model_type="glm4")))
    assert Scaling.noted({SCALING_NOTE: scaling.note()}, "m") == scaling
    assert Scaling.noted({}, "m") == Scaling()


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        '{"stream": 2.0}',
        '{"stream": true}',
        '{"stream": -1}',
        '{"stream": 1000}',
        '{"outputs": [1]}',
        '{"inputs": {"a": null}}',
        '{"other": 1}',
    ],
)
def test_a_damaged_note_is_refused(note: str) -> None:
    with pytest.raises(ArtifactError, match=rf"^m/model\.onnx: its metadata hold a damaged '{SCALING_NOTE}'; convert"):
        Scaling.noted({SCALING_NOTE: note}, "m/model.onnx")
