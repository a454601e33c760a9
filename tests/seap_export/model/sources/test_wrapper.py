"""The language model of a multimodal checkpoint, or of one in another layout, is the same as one of its own."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.corpora import random_token_ids
from support.editing import edit_weights
from support.models import SPELLINGS, write_micro_model, write_wrapped_model
from support.tokenizers import write_micro_tokenizer
from support.variations import VARIATIONS

from seap_export.errors import InputError
from seap_export.model.families import names
from seap_export.model.sources.open import open_source
from seap_export.model.sources.source import Source


def assert_same_model(ours: Source, theirs: Source) -> None:
    assert ours.spec == theirs.spec
    assert ours.reader.shapes() == theirs.reader.shapes()
    for index in range(len(theirs.spec.layers)):
        layer, expected = ours.read_layer(index), theirs.read_layer(index)
        assert all(torch.equal(layer[name], expected[name]) for name in expected)
    assert all(torch.equal(ours.read_outer(name), theirs.read_outer(name)) for name in theirs.spec.outer_names)


@pytest.mark.parametrize(("variation", "spelling"), [*zip(["gemma3", "gemma3-all"], SPELLINGS, strict=True)])
def test_its_weights_and_config_are_those_of_one_of_its_own(tmp_path: Path, variation: str, spelling: str) -> None:
    """Tied or not, which the wrapper's config does not say."""
    source = open_source(str(write_micro_model(tmp_path / "text", **VARIATIONS[variation])))
    wrapped = open_source(str(write_wrapped_model(tmp_path / "wrapped", tmp_path / "text", spelling)))
    assert wrapped.config == source.config
    assert_same_model(wrapped, source)


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
    if model_type == "qwen2_5_vl":  # whose authors have published its keys beside those of the rest
        config = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
        inner = config.pop("text_config")
        config |= {key: value for key, value in inner.items() if key not in ("model_type", "rope_parameters")}
        config |= {**_SECTIONS, "vision_token_id": 91}
        (tmp_path / "model" / "config.json").write_text(json.dumps(config), "utf-8")
        flat = open_source(str(tmp_path / "model"))
        assert flat.spec == source.spec
        assert "vision" not in str(flat.config)


def test_whether_the_head_is_tied_is_seen_in_the_weights_and_each_of_them_must_be_known_once(tmp_path: Path) -> None:
    write_micro_model(tmp_path / "text", **VARIATIONS["gemma3"])
    folder = write_wrapped_model(tmp_path / "wrapped", tmp_path / "text", "newer")
    assert not open_source(str(folder)).spec.tie_word_embeddings
    edit_weights(folder, lambda tensors: tensors.pop("lm_head.weight"))
    config = (folder / "config.json").read_text("utf-8")
    (folder / "config.json").write_text(config.replace('"tie_word_embeddings": false', '"_": 0'), "utf-8")
    assert open_source(str(folder)).spec.tie_word_embeddings
    for name, message in (
        ("model.audio_tower.weight", "is not part of the family"),
        ("model.language_model.layers.0.mlp.extra.weight", "is not part of the family"),
        ("language_model.model.norm.weight", r"norm\.weight"),  # two tensors become one
    ):
        edit_weights(folder, lambda tensors, name=name: tensors.update({name: torch.ones(96)}))
        with pytest.raises(InputError, match=message):
            open_source(str(folder))
        edit_weights(folder, lambda tensors, name=name: tensors.pop(name))


def test_joint_experts_further_layers_and_other_names_are_the_same_model(tmp_path: Path) -> None:
    """As Qwen3.5 is published, with layers that predict further tokens."""
    source = open_source(str(write_micro_model(tmp_path / "text", **VARIATIONS["qwen3_5_moe"])))
    stored = load_file(tmp_path / "text" / "model.safetensors")
    joint = {"mtp.fc.weight": torch.ones(2)}
    for index in range(3):
        gate, up, down = (
            torch.stack([stored.pop(f"model.layers.{index}.mlp.experts.{e}.{name}.weight") for e in range(4)])
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        experts = f"model.language_model.layers.{index}.mlp.experts"
        joint |= {f"{experts}.gate_up_proj": torch.cat([gate, up], 1), f"{experts}.down_proj": down}
    joint |= {name.replace("model.", "model.language_model.", 1): tensor for name, tensor in stored.items()}
    folder = shutil.copytree(tmp_path / "text", tmp_path / "wrapped")
    save_file(joint, folder / "model.safetensors")
    inner = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe", "text_config": inner}), "utf-8")
    assert_same_model(open_source(str(folder)), source)
    folder = write_micro_model(tmp_path / "model", **VARIATIONS["qwen3_next"])
    before = open_source(str(folder)).reader.shapes()
    further = {"mtp.layers.0.mlp.experts.0.up_proj.weight": torch.ones(2)}
    edit_weights(folder, lambda tensors: tensors.update(further))
    assert open_source(str(folder)).reader.shapes() == before
    # as in the first checkpoints of a family
    source = open_source(str(write_micro_model(tmp_path / "plain", **VARIATIONS["nemotron_h"])))
    tensors = load_file(tmp_path / "plain" / "model.safetensors")
    other = shutil.copytree(tmp_path / "plain", tmp_path / "other")
    save_file({name.replace("model.", "backbone."): one for name, one in tensors.items()}, other / "model.safetensors")
    assert_same_model(open_source(str(other)), source)
