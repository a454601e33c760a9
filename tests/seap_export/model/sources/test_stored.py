"""The plain form and a family's own form of its checkpoints hold the same numbers, bit for bit; also in MXFP4."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.editing import edit_weights, set_json
from support.models import micro_source, skip_unless_loaded, write_micro_model
from support.variations import micro_config

from seap_export.errors import InputError
from seap_export.model.families import family_of_model_type, model_spec, names
from seap_export.model.sources.mxfp4 import decoded
from seap_export.model.sources.open import open_source
from seap_export.model.sources.stored import StoredForm

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


@pytest.mark.parametrize(
    ("variation", "dtype"), [(name, ("float32", "float16", "bfloat16")[i % 3]) for i, name in enumerate(CONVERTED)]
)
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


def test_gains_are_full_where_weights_lack_one_and_ones_where_none_are_stored(tmp_path: Path) -> None:
    """Of every norm, queries' and keys' included, and of nothing else."""
    source = micro_source(tmp_path / "model", "gemma3", dtype="bfloat16")
    stored = load_file(tmp_path / "model" / "model.safetensors")
    layer, form = source.read_layer(0), StoredForm(source.spec)
    norms = [name for name in layer if "norm" in name]
    assert len(norms) == 6
    for name, tensor in layer.items():
        (holder,) = form.holders([name])
        assert torch.equal(tensor, stored[holder].double() + 1.0 if name in norms else stored[holder])
    assert torch.equal(source.read_outer("norm"), stored["model.norm.weight"].double() + 1.0)
    source = micro_source(tmp_path / "ones", "olmo")
    assert not any("norm" in name for name in load_file(tmp_path / "ones" / "model.safetensors"))
    gains = [source.read_outer("norm"), *(gain for name, gain in source.read_layer(0).items() if "norm" in name)]
    assert [gain.tolist() for gain in gains] == [[1.0] * source.spec.hidden_size] * 3


def test_a_fused_projection_of_a_shrunk_layer_has_fewer_rows() -> None:
    spec = model_spec(micro_config(model_type="seap_phi3", per_layer_config={"1": {"intermediate_size": 7}}))
    shapes = StoredForm(spec).shapes
    assert shapes["model.layers.0.mlp.gate_up_proj.weight"] == (160, 96)
    assert shapes["model.layers.1.mlp.gate_up_proj.weight"] == (14, 96)


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    source = open_source(str(write_micro_model(tmp_path / "model", model_type="phi3")))
    asked = [names.weight("k_proj", 2), names.weight("o_proj", 0)]
    assert list(source.reader.read(asked)) == asked
    assert StoredForm(source.spec).holders([names.weight("q_proj", 2), *asked]) == [
        "model.layers.2.self_attn.qkv_proj.weight",
        "model.layers.0.self_attn.o_proj.weight",
    ]


MATRICES = ("gate_up_proj", "down_proj")


def packed_model(folder: Path) -> Path:
    """A micro model whose experts are random blocks, with scales about those of weights."""
    write_micro_model(folder, dtype="bfloat16", model_type="gpt_oss")
    tensors, generator = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith(MATRICES)]:
        experts, inputs, rows = tensors.pop(name).shape
        blocks = torch.randint(256, (experts, rows, inputs // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(122, 126, blocks.shape[:3], generator=generator, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    set_json(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    return folder


def test_every_number_at_every_scale_is_what_transformers_makes_of_it() -> None:
    skip_unless_loaded(family_of_model_type("gpt_oss"))
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 255, 1, 1)
    scales = torch.arange(255, dtype=torch.uint8)[None, :, None].repeat(2, 1, 16)
    expected = convert_moe_packed_tensors(blocks, scales)
    assert decoded(blocks, scales).view(torch.int16).equal(expected.view(torch.int16))


def test_a_model_with_packed_experts_is_the_one_that_they_stand_for_or_is_refused(tmp_path: Path) -> None:
    source = open_source(str(packed_model(tmp_path / "model")))
    assert source.dtype == torch.bfloat16
    assert "quantization_config" not in source.config
    stored = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.1.mlp.experts.gate_up_proj"
    whole = decoded(stored[f"{name}_blocks"], stored[f"{name}_scales"])
    gate, up = (
        source.read_layer(1)[f"model.layers.1.mlp.experts.{part}_proj.weight"].unflatten(0, (4, 64))
        for part in ("gate", "up")
    )
    assert torch.stack((gate, up), 2).flatten(1, 2).mT.equal(whole)
    for suffix in ("_blocks", "_scales"):
        folder = packed_model(tmp_path / suffix)
        edit_weights(
            folder, lambda tensors, suffix=suffix: tensors.pop(f"model.layers.0.mlp.experts.down_proj{suffix}")
        )
        with pytest.raises(InputError, match=r"'model.layers.0.mlp.experts.down_proj': .* MXFP4"):
            open_source(str(folder))
