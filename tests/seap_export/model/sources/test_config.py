"""A portable config means the same in transformers 4.57 and 5."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.chosen import OF_EACH_FAMILY
from support.models import transformers_model, why_not_loaded, write_micro_model
from support.product import attention_factor, rotary_tables
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from seap_export.common.json_file import read_json
from seap_export.errors import InputError
from seap_export.model.families import Attention, Mlp, model_spec
from seap_export.model.layers.sublayers.rotary import inverse_frequencies
from seap_export.model.sources.config import end_tokens, portable_config

THETA = 5000.0
PLAIN: dict[str, dict[str, Any]] = {
    "transformers 4": {"rope_theta": THETA, "rope_scaling": None},
    "transformers 5": {"rope_parameters": {"rope_theta": THETA, "rope_type": "default"}},
}
LINEAR: dict[str, dict[str, Any]] = {
    "oldest": {"rope_theta": THETA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "transformers 4": {"rope_theta": THETA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "both": {"rope_theta": THETA, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
    "transformers 5": {"rope_parameters": {"rope_theta": THETA, "rope_type": "linear", "factor": 4.0}},
}
#: Where either release looks for a rotation.
ROTARY_KEYS = (
    *("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor"),
    *("original_max_position_embeddings", "layer_types"),
)
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
}
#: What transformers 5 writes under these keys.
WRITTEN_BY_5: dict[str, dict[str, Any]] = {
    "gemma3-all": {
        "layer_types": VARIATIONS["gemma3-all"]["layer_types"],
        "rope_parameters": {
            "full_attention": {"factor": 4.0, "rope_theta": 10000.0, "rope_type": "linear"},
            "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
        },
    },
    "phi3-all": {
        "original_max_position_embeddings": 16,
        "rope_parameters": {
            **VARIATIONS["phi3-all"]["rope_scaling"],
            "original_max_position_embeddings": 16,
            "partial_rotary_factor": 0.75,
            "rope_theta": 10000.0,
            "rope_type": "longrope",
        },
    },
    "granitemoehybrid-all": {
        "layer_types": ["full_attention"] * 3,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    },
}


def config_spelled(values: dict[str, Any]) -> dict[str, Any]:
    """A llama config whose only rotary values are `values`."""
    config = micro_config(model_type="llama")
    return {key: value for key, value in config.items() if not key.startswith("rope_")} | values


def frequencies(config: dict[str, Any], folder: Path) -> torch.Tensor:
    """What the installed transformers rotates by, once it has read the config from a folder."""
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return LlamaRotaryEmbedding(AutoConfig.from_pretrained(folder)).inv_freq


def expected_frequencies(factor: float = 1.0) -> torch.Tensor:
    return THETA ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16).float() / factor


@pytest.mark.parametrize("spelling", PLAIN)
def test_the_installed_transformers_reads_theta_from_either_spelling(tmp_path: Path, spelling: str) -> None:
    portable = portable_config(config_spelled(PLAIN[spelling]))
    torch.testing.assert_close(frequencies(portable, tmp_path), expected_frequencies())


@pytest.mark.parametrize("spelling", LINEAR)
def test_the_installed_transformers_reads_scaling_from_either_spelling(tmp_path: Path, spelling: str) -> None:
    portable = portable_config(config_spelled(LINEAR[spelling]))
    torch.testing.assert_close(frequencies(portable, tmp_path), expected_frequencies(factor=4.0))


@pytest.mark.parametrize("spellings", [PLAIN, LINEAR], ids=["plain", "linear"])
def test_all_spellings_become_one(spellings: dict[str, dict[str, Any]]) -> None:
    first, *others = (portable_config(config_spelled(values)) for values in spellings.values())
    assert first["rope_theta"] == THETA
    assert all(other == first for other in others)


@pytest.mark.parametrize("variation", OF_EACH_FAMILY)
def test_what_the_installed_transformers_saves_is_the_same_model(tmp_path: Path, variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    spec = model_spec(config)
    if reason := why_not_loaded(spec.family, "uniform"):
        pytest.skip(reason)
    AutoConfig.for_model(**config).save_pretrained(tmp_path)
    saved = read_json(tmp_path / "config.json")
    portable = portable_config(saved)
    assert model_spec(saved) == model_spec(portable) == spec
    assert portable_config(portable) == portable


@pytest.mark.parametrize("variation", OF_EACH_FAMILY)
@torch.no_grad()
def test_the_installed_transformers_computes_the_same_from_it(tmp_path: Path, variation: str) -> None:
    """40 tokens are more than the windows and the lengths that rotations were scaled from."""
    folder = write_micro_model(tmp_path / "model", **VARIATIONS[variation])
    ids = torch.arange(3, 43).unsqueeze(0)
    expected = transformers_model(folder)(ids).logits
    config = read_json(folder / "config.json")
    family = model_spec(config).family
    (folder / "config.json").write_text(json.dumps(portable_config(family.completed(config))), "utf-8")
    assert torch.equal(transformers_model(folder)(ids).logits, expected)


@pytest.mark.parametrize("variation", WRITTEN_BY_5)
def test_what_transformers_5_writes_becomes_what_4_57_reads(variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    newer = {key: value for key, value in config.items() if key not in ROTARY_KEYS} | WRITTEN_BY_5[variation]
    assert portable_config(newer) == portable_config(config)


def test_a_family_that_only_transformers_5_knows_keeps_its_spelling() -> None:
    """Its class would take a missing `rope_parameters` for a scaled rotation."""
    portable = portable_config(micro_config(**VARIATIONS["ministral3"]))
    assert portable["rope_parameters"] == micro_config(**VARIATIONS["ministral3"])["rope_parameters"]
    assert not portable.keys() & {"rope_theta", "rope_scaling"}


@pytest.mark.parametrize("factor", [None, 2.0, 8.0])
def test_a_factor_of_longrope_has_the_same_effect_in_both(tmp_path: Path, factor: float | None) -> None:
    """4.57 takes the ratio of both lengths, here 8, whatever is given."""
    scaling = {**LONGROPE, "original_max_position_embeddings": 16}
    if factor is not None:
        scaling["factor"] = factor
    config = micro_config(model_type="llama", rope_scaling=scaling)
    (tmp_path / "config.json").write_text(json.dumps(portable_config(config)), "utf-8")
    rotary = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    rope = model_spec(config).first(Attention).rope
    assert rope is not None
    assert rotary.attention_scaling == pytest.approx(attention_factor(rope), rel=1e-12)
    assert rotary.attention_scaling == pytest.approx((1 + math.log(factor or 8.0) / math.log(16)) ** 0.5, rel=1e-12)
    torch.testing.assert_close(rotary.inv_freq, inverse_frequencies(rope))
    _, sine = rotary(torch.zeros(1), torch.arange(40)[None])
    torch.testing.assert_close(sine[0, :, :8], rotary_tables(rope, 40, long=True)[1])


def test_a_scaled_rotation_of_layers_with_a_window_is_refused() -> None:
    ropes = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(InputError, match="layers with a window"):
        portable_config({"model_type": "gemma3_text", "rope_parameters": ropes})


def test_a_portable_config_stays_as_it_is() -> None:
    portable = portable_config(config_spelled(LINEAR["transformers 5"]))
    assert portable_config(portable) == portable


def test_the_first_gemma_s_gelu_is_written_as_what_it_means() -> None:
    """transformers 4.57 takes the word as it is."""
    config = micro_config(**VARIATIONS["gemma"])
    older = {**config, "hidden_act": "gelu"}
    assert model_spec(older) == model_spec(config)
    assert portable_config(older) == portable_config(config)
    assert model_spec(older).first(Mlp).activation == "gelu_tanh"


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_dtype_has_its_newer_name(key: str) -> None:
    config = {"model_type": "llama", key: "bfloat16"}
    portable = portable_config(config)
    assert portable["dtype"] == "bfloat16"
    assert "torch_dtype" not in portable


def test_what_a_loader_put_in_is_left_out_and_the_rest_kept() -> None:
    config = {"model_type": "llama", "_name_or_path": "/me", "transformers_version": "4.40", "vocab_size": 7, "x": [1]}
    portable = portable_config(config)
    assert not portable.keys() & {"_name_or_path", "transformers_version"}
    assert (portable["vocab_size"], portable["x"]) == (7, [1])


def test_the_config_given_is_not_changed() -> None:
    config = config_spelled(LINEAR["transformers 5"])
    before = json.dumps(config)
    portable_config(config)
    assert json.dumps(config) == before


def test_a_text_ends_with_the_tokens_of_the_generation_config_if_it_names_any(tmp_path: Path) -> None:
    for name, values, ends in (
        ("config.json", {"eos_token_id": 2}, {2}),
        ("generation_config.json", {"do_sample": True}, {2}),
        ("generation_config.json", {"eos_token_id": [3, 4]}, {3, 4}),
    ):
        (tmp_path / name).write_text(json.dumps(values), "utf-8")
        assert end_tokens(tmp_path) == ends
