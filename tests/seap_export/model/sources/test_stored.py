"""The plain form and a family's own form of its checkpoints hold the same numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.models import micro_source, write_micro_model
from support.product import ALL_PROJECTIONS
from support.variations import VARIATIONS, micro_config

from seap_export.model.families import model_spec, names
from seap_export.model.layers.sublayers.norm import rms_norm
from seap_export.model.sources.open import open_source
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.weights import SafetensorsReader

#: Fused projections in several orders, transposed ones, norms that lack an offset, both with and without biases.
CONVERTED = (
    "falcon-all",
    "gpt2",
    "phi3",
    "glm4-biases",
    "granitemoehybrid-all",
    "qwen3_next",
    "gemma2-all",
    "gemma3",
    "ernie4_5-biases",
)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("variation", CONVERTED)
def test_what_is_read_and_written_back_is_what_was_stored(tmp_path: Path, variation: str, dtype: str) -> None:
    source = micro_source(tmp_path / "model", variation, dtype=dtype)
    form = StoredForm(source.spec)
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert form.shapes == {name: tuple(stored[name].shape) for name in form.shapes}
    assert form.shapes.keys() == stored.keys()
    for index in range(3):
        back = form.to_stored(source.read_layer(index))
        prefix = source.spec.family.names["layer"].format(layer=index)
        assert back.keys() == {name for name in stored if name.startswith(prefix)}
        for name, tensor in back.items():
            assert torch.equal(tensor.to(stored[name].dtype), stored[name]), name
    for name in source.spec.outer_names:
        for stored_name, tensor in form.to_stored({names.tensor(name): source.read_outer(name)}).items():
            assert torch.equal(tensor.to(stored[stored_name].dtype), stored[stored_name])


@pytest.mark.parametrize("variation", VARIATIONS)
def test_the_plain_form_has_the_names_and_shapes_of_the_spec(tmp_path: Path, variation: str) -> None:
    folder = write_micro_model(tmp_path / "model", **VARIATIONS[variation])
    spec = model_spec(micro_config(**VARIATIONS[variation]))
    reader = PlainReader(SafetensorsReader(folder), spec)
    assert reader.shapes() == spec.tensors()
    read = reader.read(spec.tensors())
    assert {name: tuple(tensor.shape) for name, tensor in read.items()} == spec.tensors()
    assert list(read) == list(spec.tensors())


def test_fused_rows_are_queries_keys_values_and_gate_up(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "phi3")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    layer = source.read_layer(1)
    fused = stored["model.layers.1.self_attn.qkv_proj.weight"]
    for projection, rows in (("q_proj", fused[:96]), ("k_proj", fused[96:144]), ("v_proj", fused[144:])):
        assert torch.equal(layer[names.weight(projection, 1)], rows)  # type: ignore[arg-type]
    fused = stored["model.layers.1.mlp.gate_up_proj.weight"]
    assert torch.equal(layer[names.weight("gate_proj", 1)], fused[:80])
    assert torch.equal(layer[names.weight("up_proj", 1)], fused[80:])


def test_fused_rows_may_be_interleaved_by_heads_and_have_another_order(tmp_path: Path) -> None:
    layer = micro_source(tmp_path / "by heads", "gpt_neox").read_layer(1)
    stored = load_file(tmp_path / "by heads" / "model.safetensors")
    fused = stored["gpt_neox.layers.1.attention.query_key_value.weight"].view(6, 3, 16, 96)
    for index, projection in enumerate(ALL_PROJECTIONS[:3]):
        assert torch.equal(layer[names.weight(projection, 1)], fused[:, index].reshape(96, 96))
    layer = micro_source(tmp_path / "in parts", "codegen").read_layer(1)
    stored = load_file(tmp_path / "in parts" / "model.safetensors")
    fused = stored["transformer.h.1.attn.qkv_proj.weight"].view(4, 3, 24, 96)
    for index, projection in enumerate((ALL_PROJECTIONS[0], ALL_PROJECTIONS[2], ALL_PROJECTIONS[1])):
        assert torch.equal(layer[names.weight(projection, 1)], fused[:, index].reshape(96, 96))


def test_a_fused_projection_of_a_shrunk_layer_has_fewer_rows() -> None:
    spec = model_spec(micro_config(model_type="seap_phi3", per_layer_config={"1": {"intermediate_size": 7}}))
    shapes = StoredForm(spec).shapes
    assert shapes["model.layers.0.mlp.gate_up_proj.weight"] == (160, 96)
    assert shapes["model.layers.1.mlp.gate_up_proj.weight"] == (14, 96)


def test_gains_of_norms_without_weights_are_ones_that_are_not_stored(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "olmo")
    assert not any("norm" in name for name in load_file(tmp_path / "model" / "model.safetensors"))
    gains = [source.read_outer("norm"), *(gain for name, gain in source.read_layer(0).items() if "norm" in name)]
    assert [gain.tolist() for gain in gains] == [[1.0] * source.spec.hidden_size] * 3


@pytest.mark.parametrize("variation", ["gemma2", "gemma3"])
def test_gains_are_full_where_weights_lack_one(tmp_path: Path, variation: str) -> None:
    """Of every norm, queries' and keys' included, and of nothing else."""
    source = micro_source(tmp_path / "model", variation, dtype="bfloat16")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    layer, form = source.read_layer(0), StoredForm(source.spec)
    norms = [name for name in layer if "norm" in name]
    assert len(norms) == (4 if variation == "gemma2" else 6)
    for name, tensor in layer.items():
        (holder,) = form.holders([name])
        assert torch.equal(tensor, stored[holder].double() + 1.0 if name in norms else stored[holder])
    assert torch.equal(source.read_outer("norm"), stored["model.norm.weight"].double() + 1.0)
    assert torch.equal(source.read_outer("embed_tokens"), stored["model.embed_tokens.weight"])


def test_a_gain_multiplies_as_transformers_multiplies_by_one_plus_the_weight(tmp_path: Path) -> None:
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

    source = micro_source(tmp_path / "model", "gemma2", dtype="bfloat16")
    norm = Gemma2RMSNorm(96, eps=1e-5)
    norm.load_state_dict({"weight": load_file(tmp_path / "model" / "model.safetensors")["model.norm.weight"]})
    x = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rms_norm(x, source.read_outer("norm").float(), 1e-5), norm(x), rtol=1e-6, atol=1e-6)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    source = open_source(str(write_micro_model(tmp_path / "model", model_type="phi3")))
    asked = [names.weight("k_proj", 2), names.weight("o_proj", 0)]
    assert list(source.reader.read(asked)) == asked
    assert StoredForm(source.spec).holders([names.weight("q_proj", 2), *asked]) == [
        "model.layers.2.self_attn.qkv_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
    ]
