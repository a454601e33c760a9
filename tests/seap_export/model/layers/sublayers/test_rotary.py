"""The rotary tables equal transformers' own, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from seap_export.model.families import Attention, RopeSpec, model_spec
from seap_export.model.layers.sublayers.rotary import attention_factor, inverse_frequencies, rotary_tables

LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
CASES: dict[str, tuple[float, str, dict[str, Any]]] = {
    "default": (10000.0, "default", {}),
    "linear": (10000.0, "linear", {"factor": 2.5}),
    "llama3": (500000.0, "llama3", LLAMA3),
    "yarn": (10000.0, "yarn", YARN),
    "yarn-attention-factor": (10000.0, "yarn", {**YARN, "attention_factor": 0.7}),
    "yarn-mscale": (10000.0, "yarn", {**YARN, "mscale": 1.2, "mscale_all_dim": 0.7}),
    "yarn-betas": (10000.0, "yarn", {**YARN, "beta_fast": 20, "beta_slow": 2}),
    "yarn-not-truncated": (10000.0, "yarn", {**YARN, "truncate": False}),
    "yarn-ramp-beyond-the-last": (3.0, "yarn", YARN),
    "yarn-ramp-before-the-first": (10000.0, "yarn", {**YARN, "beta_fast": 1000}),
    "yarn-narrow-ramp": (1e12, "yarn", {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False}),
}


#: But for the rotation.
CONFIG = {
    **{"vocab_size": 32, "hidden_size": 128, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512},
}


def rope_of(config: dict[str, Any]) -> RopeSpec:
    rope = model_spec(config).first(Attention).rope
    assert rope is not None
    return rope


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str) -> None:
    theta, kind, parameters = CASES[case]
    raw = {**CONFIG, "rope_theta": theta, "rope_scaling": {"rope_type": kind, **parameters} if parameters else None}
    rope = rope_of({**raw, "model_type": "llama"})
    module = LlamaRotaryEmbedding(LlamaConfig(**raw))
    assert torch.equal(inverse_frequencies(rope), module.inv_freq)
    assert attention_factor(rope) == pytest.approx(module.attention_scaling, abs=1e-12)

    cos, sin = rotary_tables(rope, 512)
    expected_cos, expected_sin = module(torch.zeros(1), torch.arange(512)[None])
    assert (cos.shape, cos.dtype) == ((512, 32), torch.float32)
    assert torch.equal(cos, expected_cos[0, :, :32])
    assert torch.equal(sin, expected_sin[0, :, :32])


LONG = {"short_factor": [1.0 + 0.1 * i for i in range(24)], "long_factor": [1.0 + 0.7 * i for i in range(24)]}


PHI3 = {"model_type": "phi3", "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "pad_token_id": 0}


@pytest.mark.parametrize("length", [64, 65])
def test_longrope_equals_transformers_on_both_sides_of_its_switch(length: int) -> None:
    from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

    config = {**CONFIG, **PHI3, "rope_theta": 10000.0, "rope_scaling": {"type": "longrope", **LONG}}
    rope = rope_of(config)
    assert (rope.switches_at, rope.dim) == (64, 48)
    module = Phi3RotaryEmbedding(AutoConfig.for_model(**config))
    cos, sin = rotary_tables(rope, length, long=length > 64)
    expected_cos, expected_sin = module(torch.zeros(1), torch.arange(length)[None])
    assert torch.equal(cos, expected_cos[0, :, :24])
    assert torch.equal(sin, expected_sin[0, :, :24])
    assert attention_factor(rope) == pytest.approx((1 + 3 / 6) ** 0.5)
    given = {"type": "longrope", **LONG, "attention_factor": 1.3}
    assert attention_factor(rope_of({**config, "rope_scaling": given})) == 1.3


def test_a_fixed_alpha_raises_the_base_as_in_transformers() -> None:
    module = pytest.importorskip("transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense")
    config = {**CONFIG, "model_type": "hunyuan_v1_dense", "rope_theta": 10000.0}
    config["rope_scaling"] = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
    expected = module.HunYuanDenseV1RotaryEmbedding(AutoConfig.for_model(**config))
    assert torch.equal(inverse_frequencies(rope_of(config)), expected.inv_freq)


def test_yarn_original_context_defaults_to_the_models() -> None:
    without, given = (
        rope_of({**CONFIG, "model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 4.0, **original}})
        for original in ({}, {"original_max_position_embeddings": 512})
    )
    assert torch.equal(inverse_frequencies(without), inverse_frequencies(given))
