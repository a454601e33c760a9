"""The plain form and a family's own form of its checkpoints hold the same numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.models import micro_source, write_micro_model
from support.variations import micro_config

from seap_export.model.families import model_spec, names
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
