"""The model folder as a format."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.editing import edit_weights, set_json
from support.models import write_micro_model
from support.product import read_spec

from converters.hf.format import HfFormat
from seap_export.errors import InputError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_micro_model(tmp_path / "hf", model_type="llama")


def test_it_is_sized_and_read_back(model: Path) -> None:
    format, spec = HfFormat.read(model), read_spec(model)
    assert format.precision == "fp32"
    assert format.size(spec) == pytest.approx((model / "model.safetensors").stat().st_size, rel=0.05)
    stored = load_file(model / "model.safetensors")
    read = format.weights(model, spec).read(stored)
    assert all(torch.equal(read[name], tensor) for name, tensor in stored.items())


def test_another_weight_is_a_difference(model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    assert not list(HfFormat().differences(model, other))
    edit_weights(other, lambda tensors: tensors["model.norm.weight"].__setitem__(3, 2.0))
    assert ["model.norm.weight" in line for line in HfFormat().differences(model, other)] == [True]


def test_a_tensor_too_many_is_damage(model: Path) -> None:
    assert not list(HfFormat().damages(model, model))
    edit_weights(model, lambda tensors: tensors.__setitem__("model.layers.0.self_attn.o_proj.bias", torch.ones(4)))
    with pytest.raises(InputError, match=r"o_proj\.bias"):
        list(HfFormat().damages(model, model))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("generation_config.json", {"suppress_tokens": [2]}),
        ("generation_config.json", {"max_length": 8}),
        ("config.json", {"bad_words_ids": [[2]]}),
        ("config.json", {"torch_dtype": "float16"}),
    ],
)
def test_what_no_export_writes_into_a_config_is_damage(model: Path, file: str, said: dict[str, object]) -> None:
    set_json(model / "generation_config.json", do_sample=True, transformers_version="5.0")
    assert not list(HfFormat().damages(model, model))
    set_json(model / file, **said)
    lines = list(HfFormat().damages(model, model))
    assert [file in line and key in line for line, key in zip(lines, said, strict=True)] == [True]
