"""Micro models of every family as transformers' own class makes them, each with all that its family can do."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
FULL, SLIDING = "full_attention", "sliding_attention"
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1 + pair / 10 for pair in range(8)],
    "long_factor": [2 + pair for pair in range(8)],
}
MULTIPLIERS = {
    "attention_multiplier": 0.09,
    "embedding_multiplier": 6.0,
    "residual_multiplier": 0.3,
    "logits_scaling": 4.0,
}
#: What makes the features of a family matter in a micro model.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {},
    "qwen3": {},
    "seed_oss": {},
    "gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 2.0},
    "gemma3_text": {
        "sliding_window": 5,
        "layer_types": [SLIDING, FULL, SLIDING, FULL],
        "query_pre_attn_scalar": 20,
        "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "granite": {**MULTIPLIERS, "attention_bias": True, "mlp_bias": True},
    "granitemoehybrid": {
        **MULTIPLIERS,
        "shared_intermediate_size": 48,
        "num_local_experts": 0,
        "layer_types": ["attention"] * 4,
        "position_embedding_type": "rope",
        "head_dim": 16,
    },
    "smollm3": {"no_rope_layers": [1, 0, 1, 0], "use_sliding_window": False},
    "phi3": {
        "head_dim": 32,
        "hidden_size": 128,
        "partial_rotary_factor": 0.5,
        "rope_parameters": {**LONGROPE, "rope_theta": 1e4, "partial_rotary_factor": 0.5},
        "original_max_position_embeddings": 12,
    },
    "ministral3": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 8.0,
            "original_max_position_embeddings": 6,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.7,
        },
    },
    "exaone4": {"sliding_window": 5, "sliding_window_pattern": 4, "layer_types": [SLIDING, SLIDING, FULL, SLIDING]},
    "hunyuan_v1_dense": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "alpha": 50.0, "factor": 1.0}},
    "ernie4_5": {"use_bias": False},
    "glm4": {"partial_rotary_factor": 0.5, "attention_bias": True},
}  # fmt: skip


def model_of(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES[family]})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape))
            else:
                parameter.normal_(std=1.6 * model.config.hidden_size**-0.5)
    return model
