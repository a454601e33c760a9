"""The rotary caches equal transformers' own, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from converters.rope import inverse_frequencies, rotary_caches
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from seap_export.families import model_spec

LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 128}
CASES: dict[str, tuple[float, str, dict[str, Any]]] = {
    "default": (10000.0, "default", {}),
    "default-theta": (1e6, "default", {}),
    "linear": (10000.0, "linear", {"factor": 2.5}),
    "llama3": (500000.0, "llama3", LLAMA3),
    "yarn": (10000.0, "yarn", YARN),
    "yarn-attention-factor": (10000.0, "yarn", {**YARN, "attention_factor": 0.7}),
    "yarn-mscale": (10000.0, "yarn", {**YARN, "mscale": 1.2, "mscale_all_dim": 0.7}),
    "yarn-mscale-alone": (10000.0, "yarn", {**YARN, "mscale": 1.2}),
    "yarn-betas": (10000.0, "yarn", {**YARN, "beta_fast": 20, "beta_slow": 2}),
    "yarn-not-truncated": (10000.0, "yarn", {**YARN, "truncate": False}),
    "yarn-shrinking": (10000.0, "yarn", {**YARN, "factor": 0.5}),
    "yarn-ramp-beyond-the-last": (3.0, "yarn", YARN),
    "yarn-ramp-before-the-first": (10000.0, "yarn", {**YARN, "beta_fast": 1000}),
    "yarn-narrow-ramp": (1e12, "yarn", {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False}),
}


def config_of(case: str) -> dict[str, Any]:
    theta, kind, parameters = CASES[case]
    scaling = {"rope_type": kind, **parameters} if parameters else None
    return {
        "vocab_size": 32,
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "num_hidden_layers": 1,
        "head_dim": 64,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "rope_theta": theta,
        "rope_scaling": scaling,
    }


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case: str) -> None:
    raw = config_of(case)
    spec = model_spec({**raw, "model_type": "llama"})
    module = LlamaRotaryEmbedding(LlamaConfig(**raw))
    frequencies, factor = inverse_frequencies(spec.rope, 64, 512)
    assert torch.equal(frequencies, module.inv_freq)
    assert factor == pytest.approx(module.attention_scaling, abs=1e-12)

    cos, sin = rotary_caches(spec.rope, 64, 512)
    expected_cos, expected_sin = module(torch.zeros(1), torch.arange(512)[None])
    assert (cos.shape, cos.dtype) == ((512, 32), torch.float32)
    assert torch.equal(cos, expected_cos[0, :, :32])
    assert torch.equal(sin, expected_sin[0, :, :32])


def test_yarn_scales_cosines() -> None:
    raw = config_of("yarn-attention-factor")
    cos, sin = rotary_caches(model_spec({**raw, "model_type": "llama"}).rope, 64, 512)
    assert cos[0].tolist() == pytest.approx([0.7] * 32)
    assert sin[0].tolist() == [0.0] * 32


def test_yarn_original_context_defaults_to_the_models() -> None:
    raw = config_of("yarn")
    raw["rope_scaling"] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": None}
    without = model_spec({**raw, "model_type": "llama"}).rope
    raw["rope_scaling"] = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    given = model_spec({**raw, "model_type": "llama"}).rope
    assert torch.equal(inverse_frequencies(without, 64, 512)[0], inverse_frequencies(given, 64, 512)[0])
