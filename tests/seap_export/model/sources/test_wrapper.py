"""The language model of a multimodal checkpoint is the same as one of its own."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.corpora import random_token_ids
from support.editing import edit_json, edit_weights
from support.models import SPELLINGS, write_micro_model, write_wrapped_model
from support.tokenizers import write_micro_tokenizer
from support.variations import VARIATIONS

from seap_export.errors import InputError
from seap_export.model.families import names
from seap_export.model.sources.open import open_source


@pytest.mark.parametrize(("variation", "spelling"), [*zip(["gemma3", "gemma3-all"], SPELLINGS, strict=True)])
def test_its_weights_and_config_are_those_of_one_of_its_own(tmp_path: Path, variation: str, spelling: str) -> None:
    """Tied or not, which the wrapper's config does not say."""
    source = open_source(str(write_micro_model(tmp_path / "text", **VARIATIONS[variation])))
    wrapped = open_source(str(write_wrapped_model(tmp_path / "wrapped", tmp_path / "text", spelling)))
    assert wrapped.spec == source.spec
    assert wrapped.config == source.config
    assert wrapped.reader.shapes() == source.reader.shapes()
    for index in range(3):
        ours, theirs = wrapped.read_layer(index), source.read_layer(index)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name in source.spec.outer_names:
        assert torch.equal(wrapped.read_outer(name), source.read_outer(name))


_SECTIONS: dict[str, Any] = {"rope_theta": 100.0, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
#: In the spelling that both major versions of transformers read.
WITH_SECTIONS: dict[str, dict[str, Any]] = {
    "qwen2_vl": _SECTIONS,
    "qwen2_5_vl": _SECTIONS,
    "qwen3_vl": {
        "rope_theta": 100.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        "head_dim": 16,
        "attention_bias": True,
    },
}


def write_qwen_vl(folder: Path, model_type: str) -> torch.nn.Module:
    """A micro model of transformers' own class, with a vision tower, written by that class."""
    sections = deepcopy(WITH_SECTIONS[model_type])  # which the config class changes
    text = {
        "hidden_size": 96, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 3, "vocab_size": 97, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "embed_dim": 16, "num_heads": 2, "intermediate_size": 16}
    config = transformers.AutoConfig.for_model(
        model_type, text_config=text | sections, vision_config=vision, image_token_id=90
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    write_micro_tokenizer(folder)
    return model


@pytest.mark.parametrize("model_type", WITH_SECTIONS)
def test_for_texts_qwen_s_sections_for_images_are_the_usual_rotation(tmp_path: Path, model_type: str) -> None:
    whole = write_qwen_vl(tmp_path / "model", model_type)
    source = open_source(str(tmp_path / "model"))
    assert source.spec.family.model_type == model_type.partition("_")[0]
    assert "mrope" not in str(source.config)
    tensors = {names.tensor(name): source.read_outer(name) for name in source.spec.outer_names}
    tensors |= {name: one for index in range(2) for name, one in source.read_layer(index).items()}
    language = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**source.config)).eval()
    language.load_state_dict(tensors)
    ids = torch.tensor([random_token_ids(1)[0][:24]]) % 90
    with torch.no_grad():
        assert torch.allclose(language(ids).logits, whole(ids).logits, atol=1e-4)


def test_keys_of_a_language_model_may_stand_beside_those_of_the_rest(tmp_path: Path) -> None:
    """As in the checkpoints of Qwen2.5-VL that its authors have published."""
    write_qwen_vl(tmp_path / "model", "qwen2_5_vl")
    source = open_source(str(tmp_path / "model"))

    def flatten(config: dict[str, Any]) -> None:
        inner = config.pop("text_config")
        inner.pop("rope_parameters", None)
        flat = {**_SECTIONS, "vision_token_id": 91}
        config |= {key: value for key, value in inner.items() if key != "model_type"} | flat

    edit_json(tmp_path / "model" / "config.json", flatten)
    flat = open_source(str(tmp_path / "model"))
    assert flat.spec == source.spec
    assert "vision" not in str(flat.config)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_micro_model(tmp_path / "text", **VARIATIONS["gemma3"])
    return write_wrapped_model(tmp_path / "wrapped", tmp_path / "text", "newer")


def test_whether_the_head_is_tied_is_seen_in_the_weights(folder: Path) -> None:
    assert not open_source(str(folder)).spec.tie_word_embeddings
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    config = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(config.replace('"tie_word_embeddings": false', '"_": 0'), "utf-8")
    assert open_source(str(folder)).spec.tie_word_embeddings


@pytest.mark.parametrize("name", ["model.audio_tower.weight", "model.language_model.layers.0.mlp.extra.weight"])
def test_a_tensor_of_another_part_is_refused_by_name(folder: Path, name: str) -> None:
    edit_weights(folder, lambda tensors: tensors.update({name: torch.ones(2)}))
    with pytest.raises(InputError, match="is not part of the family"):
        open_source(str(folder))


def test_two_tensors_that_become_one_are_refused(folder: Path) -> None:
    second = {"language_model.model.norm.weight": torch.ones(96)}
    edit_weights(folder, lambda tensors: tensors.update(second))
    with pytest.raises(InputError, match=r"norm\.weight"):
        open_source(str(folder))


def test_names_may_begin_as_in_the_first_checkpoints_of_a_family(tmp_path: Path) -> None:
    folder = write_micro_model(tmp_path / "model", **VARIATIONS["nemotron_h"])
    source = open_source(str(folder))
    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("model.", "backbone."): tensor for name, tensor in tensors.items()}
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    save_file(renamed, other / "model.safetensors")
    first = open_source(str(other))
    assert first.reader.shapes() == source.reader.shapes()
    assert all(torch.equal(first.read_outer(name), source.read_outer(name)) for name in source.spec.outer_names)
