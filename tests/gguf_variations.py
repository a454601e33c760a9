"""Micro models that GGUF files can hold, each a set of config values; every family with a GGUF form has one."""

from __future__ import annotations

from typing import Any

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
}
#: Six layers, of which the last has no window.
_PATTERN = {"num_hidden_layers": 6, "sliding_window": 5}
#: A GGUF file gives no scale of Gemma's attention: llama.cpp takes that of its heads.
_GEMMA = {"query_pre_attn_scalar": 16, "tie_word_embeddings": True}
_NO_ROPE = {"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]}
GGUF_VARIATIONS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-llama3": {"model_type": "llama", "rope_scaling": _LLAMA3},
    "llama-yarn": {"model_type": "llama", "rope_scaling": {**_YARN, "attention_factor": 1.0}},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "ernie4_5": {"model_type": "ernie4_5", "head_dim": 24},
    "exaone4": {"model_type": "exaone4", "rope_scaling": _LLAMA3},
    "exaone4-window": {
        "model_type": "exaone4",
        "num_hidden_layers": 4,
        "sliding_window": 5,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention"],
    },
    "gemma": {"model_type": "gemma", "tie_word_embeddings": True},
    "gemma2": {
        **_GEMMA,
        "model_type": "gemma2",
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 8.0,
    },
    "gemma3": {**_GEMMA, **_PATTERN, "model_type": "gemma3_text", "sliding_window_pattern": 6},
    "gemma3-linear": {
        **_GEMMA,
        **_PATTERN,
        "model_type": "gemma3_text",
        "sliding_window_pattern": 6,
        "rope_scaling": {"rope_type": "linear", "factor": 4.0},
        "final_logit_softcapping": 8.0,
    },
    "glm4": {"model_type": "glm4", "attention_bias": True, "partial_rotary_factor": 0.5},
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
    },
    "hunyuan": {"model_type": "hunyuan_v1_dense", "rope_theta": 11158840.0, "max_position_embeddings": 262144},
    "ministral3": {
        "model_type": "ministral3",
        "rope_parameters": {
            **_YARN,
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 8,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.5,
        },
    },
    "phi3": {"model_type": "phi3"},
    "phi3-long": {
        "model_type": "phi3",
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
        },
        "original_max_position_embeddings": 16,
        "partial_rotary_factor": 0.75,
    },
    "seed_oss": {"model_type": "seed_oss", "attention_bias": True},
    "smollm3": {**_NO_ROPE, "model_type": "smollm3"},
    "smollm3-yarn": {**_NO_ROPE, "model_type": "smollm3", "rope_scaling": _YARN},
}
