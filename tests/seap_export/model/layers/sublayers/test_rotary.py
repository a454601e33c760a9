"""The rotary tables equal transformers' own, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig

from seap_export.model.families import Attention, RopeSpec, model_spec
from seap_export.model.layers.sublayers.rotary import attention_factor, inverse_frequencies, rotary_tables

#: But for the rotation.
CONFIG = {
    **{"model_type": "llama", "vocab_size": 32, "hidden_size": 128, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512},
    **{"rope_theta": 10000.0, "pad_token_id": 0},
}
LLAMA3 = {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
NARROW = {**YARN, "beta_fast": 1.0, "beta_slow": 1.0, "truncate": False}
LONG = {"short_factor": [1.0 + 0.1 * i for i in range(24)], "long_factor": [1.0 + 0.7 * i for i in range(24)]}
PHI3 = {"model_type": "phi3", "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75}
ALPHA = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "default": {"rope_scaling": None},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 2.5}},
    "llama3": {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 500000.0},
    "yarn": {"rope_scaling": YARN},
    "yarn-attention-factor": {"rope_scaling": {**YARN, "attention_factor": 0.7}},
    "yarn-mscale": {"rope_scaling": {**YARN, "mscale": 1.2, "mscale_all_dim": 0.7}},
    "yarn-betas": {"rope_scaling": {**YARN, "beta_fast": 20, "beta_slow": 2}},
    "yarn-not-truncated": {"rope_scaling": {**YARN, "truncate": False}},
    "yarn-ramp-beyond-the-last": {"rope_scaling": YARN, "rope_theta": 3.0},
    "yarn-ramp-before-the-first": {"rope_scaling": {**YARN, "beta_fast": 1000}},
    "yarn-narrow-ramp": {"rope_scaling": NARROW, "rope_theta": 1e12},
    "longrope": {**PHI3, "rope_scaling": {"type": "longrope", **LONG}},
    "fixed-alpha": {"model_type": "hunyuan_v1_dense", "rope_scaling": ALPHA},
}


def rope_of(**values: Any) -> RopeSpec:
    rope = model_spec({**CONFIG, **values}).first(Attention).rope
    assert rope is not None
    return rope


def rotary_module(config: dict[str, Any]) -> Any:
    """That of transformers."""
    name = config["model_type"]
    module = pytest.importorskip(f"transformers.models.{name}.modeling_{name}")
    (made,) = (vars(module)[one] for one in vars(module) if one.endswith("RotaryEmbedding"))
    return made(AutoConfig.for_model(**config))


@pytest.mark.parametrize(
    ("case", "length"), [("longrope", 64), *((case, 65 if case == "longrope" else 512) for case in CASES)]
)
def test_equals_transformers(case: str, length: int) -> None:
    rope, module = rope_of(**CASES[case]), rotary_module({**CONFIG, **CASES[case]})
    assert attention_factor(rope) == pytest.approx(module.attention_scaling, abs=1e-12)
    if case == "longrope":
        assert (rope.switches_at, rope.dim) == (64, 48)
    else:
        assert torch.equal(inverse_frequencies(rope), module.inv_freq)
    cos, sin = rotary_tables(rope, length, long=case == "longrope" and length > 64)
    expected_cos, expected_sin = module(torch.zeros(1), torch.arange(length)[None])
    assert (cos.shape, cos.dtype) == ((length, rope.dim // 2), torch.float32)
    assert torch.equal(cos, expected_cos[0, :, : rope.dim // 2])
    assert torch.equal(sin, expected_sin[0, :, : rope.dim // 2])


def test_what_a_config_leaves_out() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0}  # whose original context defaults to the model's
    given = {**yarn, "original_max_position_embeddings": 512}
    without, whole = (inverse_frequencies(rope_of(rope_scaling=one)) for one in (yarn, given))
    assert torch.equal(without, whole)
    scaling = CASES["longrope"]["rope_scaling"]
    assert attention_factor(rope_of(**PHI3, rope_scaling=scaling)) == pytest.approx((1 + 3 / 6) ** 0.5)
    assert attention_factor(rope_of(**PHI3, rope_scaling={**scaling, "attention_factor": 1.3})) == 1.3
