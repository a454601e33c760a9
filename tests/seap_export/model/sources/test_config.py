"""A portable config means the same in transformers 4.57 and 5."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.product import attention_factor, rotary_tables
from support.variations import VARIATIONS, micro_config
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from seap_export.errors import InputError
from seap_export.model.families import Attention, Mlp, model_spec
from seap_export.model.layers.sublayers.rotary import inverse_frequencies
from seap_export.model.sources.config import end_tokens, portable_config

THETA = 5000.0
#: By the factor of its scaling, a rotation in each spelling.
SPELLINGS: dict[float, list[dict[str, Any]]] = {
    1.0: [
        {"rope_theta": THETA, "rope_scaling": None},
        {"rope_parameters": {"rope_theta": THETA, "rope_type": "default"}},
    ],
    4.0: [
        {"rope_theta": THETA, "rope_scaling": {"type": "linear", "factor": 4.0}},
        {"rope_theta": THETA, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_theta": THETA, "rope_type": "linear", "factor": 4.0}},
    ],
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


@pytest.mark.parametrize("factor", SPELLINGS)
def test_all_spellings_become_one_that_the_installed_transformers_reads(tmp_path: Path, factor: float) -> None:
    plain = {key: one for key, one in micro_config(model_type="llama").items() if not key.startswith("rope_")}
    loaders = {"_name_or_path": "/me", "transformers_version": "4.40", "dtype": None}
    configs = [{**plain, **loaders, "torch_dtype": "bfloat16", "x": [1], **values} for values in SPELLINGS[factor]]
    before = json.dumps(configs)
    first, *others = (portable_config(config) for config in configs)
    assert json.dumps(configs) == before
    assert all(other == first for other in [*others, portable_config(first)])
    assert (first["rope_theta"], first["dtype"], first["x"]) == (THETA, "bfloat16", [1])
    assert not first.keys() & {"torch_dtype", "_name_or_path", "transformers_version"}
    (tmp_path / "config.json").write_text(json.dumps(first), "utf-8")
    read = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path)).inv_freq
    torch.testing.assert_close(read, THETA ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16).float() / factor)
    for config in configs:
        rope = model_spec(config).first(Attention).rope
        assert rope is not None
        assert (rope.theta, rope.rope_type) == (THETA, "default" if factor == 1 else "linear")
        assert rope.parameters.get("factor", 1.0) == factor


@pytest.mark.parametrize("variation", WRITTEN_BY_5)
def test_what_transformers_5_writes_becomes_what_4_57_reads(variation: str) -> None:
    config = micro_config(**VARIATIONS[variation])
    newer = {key: value for key, value in config.items() if key not in ROTARY_KEYS} | WRITTEN_BY_5[variation]
    assert portable_config(newer) == portable_config(config)


def test_what_transformers_4_57_would_take_for_something_else() -> None:
    config = micro_config(**VARIATIONS["gemma"])
    older = {**config, "hidden_act": "gelu"}  # of the first Gemma, which means another function
    assert model_spec(older) == model_spec(config)
    assert portable_config(older) == portable_config(config)
    assert model_spec(older).first(Mlp).activation == "gelu_tanh"
    # only transformers 5 knows its class, which would take missing `rope_parameters` for a scaled rotation
    config = micro_config(**VARIATIONS["ministral3"])
    assert portable_config(config)["rope_parameters"] == config["rope_parameters"]
    assert not portable_config(config).keys() & {"rope_theta", "rope_scaling"}
    ropes = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(InputError, match="layers with a window"):
        portable_config({"model_type": "gemma3_text", "rope_parameters": ropes})


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


def test_a_text_ends_with_the_tokens_of_the_generation_config_if_it_names_any(tmp_path: Path) -> None:
    for name, values, ends in (
        ("config.json", {"eos_token_id": 2}, {2}),
        ("generation_config.json", {"do_sample": True}, {2}),
        ("generation_config.json", {"eos_token_id": [3, 4]}, {3, 4}),
    ):
        (tmp_path / name).write_text(json.dumps(values), "utf-8")
        assert end_tokens(tmp_path) == ends
