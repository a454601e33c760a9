"""Config values of micro models: every family, each of its features alone and all at once."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from seap_export.model.families import family_of_model_type
from seap_export.model.families.files import families

_LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_GEMMA2 = {
    "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24, "sliding_window": 5,
    "layer_types": ["full_attention"] * 3, "attn_logit_softcapping": None, "final_logit_softcapping": None,
}  # fmt: skip
_GEMMA4 = {
    "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"], "global_head_dim": 32,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 10000.0},
    },
}  # fmt: skip
_MIXTURE_GEMMA4 = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}
_MULTIPLIERS = {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0}
_GRANITE_SWA = {
    "attention_multiplier": 0.2, "sliding_window": 5, "layer_types": _LAYER_TYPES,
    "layer_rope_theta": [10000.0, 0.0, 100.0], "tie_word_embeddings": False,
}  # fmt: skip
_GLOBAL_AND_LOCAL = [[["local", "global"], 1], [["local"], 1]]
_FALCON = {"num_key_value_heads": 3, "num_kv_heads": 3, "new_decoder_architecture": True}
_SCALED_QUERIES = {"original_max_position_embeddings": 8, "llama_4_scaling_beta": 0.5}
#: Their classes load uniform layers with all heads only, so that the MLP must have more to remove.
_WIDE = {"num_key_value_heads": 6, "intermediate_size": 128}
_DELTA_NET = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "partial_rotary_factor": 0.5,
    "linear_num_value_heads": 6, "linear_num_key_heads": 3, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_SHARED_EXPERT = {**_MIXTURE, "shared_expert_intermediate_size": 80}
_TIED_WITH_BIASES = {"attention_bias": True, "tie_word_embeddings": True}
#: What the models of a family have in common.
_OF_FAMILY: dict[str, dict[str, Any]] = {
    "afmoe": {
        **_MIXTURE, "moe_intermediate_size": 40, "num_dense_layers": 1, "num_shared_experts": 2, "sliding_window": 5,
        "layer_types": _LAYER_TYPES, "mup_enabled": True,
    },
    "arcee": {"hidden_act": "relu2"},
    "flint": {
        **_MIXTURE, "shared_expert_intermediate_size": 80, "mlp_only_layers": [0], "sliding_window": 5,
        "layer_types": _LAYER_TYPES,
    },
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 5, "layer_types": _LAYER_TYPES},
    "cwm": {"layer_types": ["full_attention"] * 3, "rope_parameters": {"rope_theta": 10000.0}},
    "bamba": {"attn_layer_indices": [1], "mamba_n_heads": 6, "mamba_d_state": 8, "mamba_expand": 1},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 3},
    "biogpt": {**_WIDE, "hidden_act": "gelu"},
    "codegen": {**_WIDE, "hidden_act": "gelu_new", "rotary_dim": 8},
    "falcon": {"hidden_act": "gelu", "intermediate_size": 128},
    "falcon_h1": {"mamba_n_heads": 6, "mamba_d_head": 8, "mamba_d_ssm": 48, "mamba_d_state": 8, "mamba_n_groups": 3},
    "gpt2": {**_WIDE, "hidden_act": "gelu_new"},
    "gpt_bigcode": {**_WIDE, "hidden_act": "gelu_pytorch_tanh"},
    "gpt_neo": {**_WIDE, "hidden_act": "gelu_new", "attention_types": [[["global"], 3]], "window_size": 5},
    "opt": {**_WIDE, "hidden_act": "relu"},
    "gpt_neox": {**_WIDE, "hidden_act": "gelu"},
    "gptj": {**_WIDE, "hidden_act": "gelu_new", "rotary_dim": 8},
    "gemma": {"hidden_act": "gelu_pytorch_tanh"},
    "gemma2": _GEMMA2,
    "gemma3_text": {
        "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24, "sliding_window": 5,
        "sliding_window_pattern": 2, "rope_local_base_freq": 100.0,
    },
    "gemma4_text": {**_GEMMA4, "hidden_size_per_layer_input": 0},
    "gemma4_unified_text": {**_GEMMA4, "attention_k_eq_v": True},
    "glm": {"attention_bias": False},
    "glm4": {"attention_bias": False},
    "granite": {"attention_multiplier": 0.2},
    "granite_swa": _GRANITE_SWA,
    "granitemoe_swa": {
        **_GRANITE_SWA, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64,
        "shared_intermediate_size": 80,
    },
    "granitemoehybrid": {  # `intermediate_size` is that of experts, if there are any
        "attention_multiplier": 0.2, "intermediate_size": 64, "num_experts_per_tok": 2, "shared_intermediate_size": 80,
        "num_local_experts": 0, "layer_types": ["attention"] * 3, "mamba_n_heads": 6, "mamba_d_state": 8,
    },
    "jais2": {"hidden_act": "relu2", "attention_bias": False, "mlp_bias": False},
    "lfm2": {
        "norm_eps": 1e-05, "conv_L_cache": 3, "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention", "conv"],
    },
    "lfm3": {
        "norm_eps": 1e-05, "conv_L_cache": 4, "sliding_window": 5,
        "layer_types": ["sliding_attention", "conv", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 10000.0},
        },
    },
    "ministral": {"sliding_window": 5, "layer_types": _LAYER_TYPES},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64, "sliding_window": None},
    "qwen2_moe": _SHARED_EXPERT,
    "hunyuan_v1_moe": {"num_experts": 4, "moe_topk": 2},
    "solar_open": {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 80},
    "glm4_moe": {
        "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 40, "n_shared_experts": 2,
        "partial_rotary_factor": 0.5,
    },
    "dots1": {
        "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 80, "n_shared_experts": 1,
        "sliding_window": None, "layer_types": ["full_attention"] * 3,
    },
    "ernie4_5_moe": {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 40, "moe_num_shared_experts": 2},
    "exaone_moe": {
        "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 80, "sliding_window": 5,
        "layer_types": _LAYER_TYPES,
    },
    "minimax_m2": {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64, "rotary_dim": 8},
    "lfm2_moe": {
        "norm_eps": 1e-05, "conv_L_cache": 3, "layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1,
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    },
    "granitemoe": {
        "attention_multiplier": 0.2, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64,
    },
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64, "sliding_window": 5},
    "phimoe": {"num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 64, "sliding_window": None},
    "granitemoeshared": {
        "attention_multiplier": 0.2, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64,
        "shared_intermediate_size": 80,
    },
    "flex_olmo": {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True},
    "ministral3": {"rope_parameters": {"rope_theta": 10000.0, **_SCALED_QUERIES}},
    "qwen3_5_text": _DELTA_NET,
    "qwen3_5_moe_text": {**_DELTA_NET, **_SHARED_EXPERT},
    "qwen3_next": {**_DELTA_NET, **_SHARED_EXPERT},
    "nemotron": {"hidden_act": "relu2", "norm_eps": 1e-05},
    "nemotron_h": {
        "hidden_act": "relu2", "layer_types": ["linear_attention", "full_attention", "mlp"], "mamba_n_heads": 6,
        "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 3,
    },
    "olmo3": {"sliding_window": 5, "layer_types": _LAYER_TYPES, "rope_theta": 500000.0},
    "phi": {"hidden_act": "gelu_new"},
    "seed_oss": {"attention_bias": False},
    "starcoder2": {"hidden_act": "gelu_pytorch_tanh", "use_bias": False},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "vaultgemma": _GEMMA2,
}  # fmt: skip
#: Ways in which models of the families differ, each a set of config values.
VARIATIONS: dict[str, dict[str, Any]] = {
    "llama-mha": {"model_type": "llama", "num_key_value_heads": 6},
    "llama-gqa": {"model_type": "llama"},
    "llama-mqa": {"model_type": "llama", "num_key_value_heads": 1},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-linear": {"model_type": "llama", "rope_scaling": _LINEAR},
    "llama-llama3": {"model_type": "llama", "rope_scaling": _LLAMA3},
    "llama-yarn": {"model_type": "llama", "rope_scaling": _YARN},
    "llama-biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 5},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "qwen3-biases": {"model_type": "qwen3", "attention_bias": True},
    "qwen3_5": {"model_type": "qwen3_5_text"},
    "qwen3_5-all": {
        "model_type": "qwen3_5_text", "layer_types": None, "full_attention_interval": 2,
        "rope_parameters": {"rope_theta": 10000.0, "mrope_section": [1, 1, 2], "mrope_interleaved": True, **_LINEAR},
        "linear_num_value_heads": 9, "linear_key_head_dim": 8, "linear_conv_kernel_dim": 3, **_TIED_WITH_BIASES,
    },
    "bamba": {"model_type": "bamba"},
    "bamba-all": {
        "model_type": "bamba", "mamba_n_groups": 3, "mamba_conv_bias": False, **_TIED_WITH_BIASES, "mlp_bias": True,
    },
    "cohere": {"model_type": "cohere"},
    "cohere-all": {"model_type": "cohere", "rope_scaling": _YARN, **_TIED_WITH_BIASES},
    "cohere2": {"model_type": "cohere2"},
    "cohere2-all": {"model_type": "cohere2", "rope_scaling": _LLAMA3, **_TIED_WITH_BIASES},
    "cwm": {"model_type": "cwm"},
    "cwm-all": {
        "model_type": "cwm", "sliding_window": 5, "layer_types": _LAYER_TYPES,
        "rope_parameters": {"rope_theta": 10000.0, **_LLAMA3}, "mlp_bias": True, "tie_word_embeddings": True,
    },
    "arcee": {"model_type": "arcee"},
    "arcee-all": {"model_type": "arcee", "rope_scaling": _YARN, **_TIED_WITH_BIASES, "mlp_bias": True},
    "ernie4_5": {"model_type": "ernie4_5"},
    "ernie4_5-biases": {"model_type": "ernie4_5", "use_bias": True, "tie_word_embeddings": True},
    "exaone4": {"model_type": "exaone4"},
    "exaone4-window": {
        "model_type": "exaone4", "sliding_window": 5, "layer_types": _LAYER_TYPES, "rope_scaling": _LLAMA3,
    },
    "olmo2": {"model_type": "olmo2"},
    "olmo2-all": {"model_type": "olmo2", "rope_theta": 500000.0, "tie_word_embeddings": True},
    "olmo3": {"model_type": "olmo3"},
    "olmo3-all": {"model_type": "olmo3", "rope_scaling": _YARN, "tie_word_embeddings": True},
    "biogpt": {"model_type": "biogpt"},
    "biogpt-tied": {"model_type": "biogpt", "tie_word_embeddings": True},
    "codegen": {"model_type": "codegen", "rotary_dim": 16},
    "codegen-all": {"model_type": "codegen", "tie_word_embeddings": True},
    "falcon-mqa": {"model_type": "falcon", "num_key_value_heads": 1, "multi_query": True},
    "falcon-mha": {"model_type": "falcon", "num_key_value_heads": 6, "multi_query": False, "parallel_attn": False},
    "falcon-one-norm": {"model_type": "falcon", **_FALCON, "num_ln_in_parallel_attn": 1},
    "falcon-all": {
        "model_type": "falcon", **_FALCON, "rope_scaling": _LINEAR, "bias": True, "tie_word_embeddings": True,
    },
    "falcon_h1": {"model_type": "falcon_h1"},
    "falcon_h1-norm": {
        "model_type": "falcon_h1", "mamba_n_groups": 2, "mamba_rms_norm": True, "mamba_norm_before_gate": False,
    },
    "falcon_h1-all": {
        "model_type": "falcon_h1", "mamba_d_head": "auto", "mamba_conv_bias": False, "projectors_bias": True,
        "mlp_bias": True, "embedding_multiplier": 5.65, "lm_head_multiplier": 0.4, "attention_in_multiplier": 1.1,
        "attention_out_multiplier": 0.9, "key_multiplier": 0.39, "mlp_multipliers": [0.88, 0.6],
        "ssm_in_multiplier": 1.25, "ssm_out_multiplier": 0.35, "ssm_multipliers": [0.35, 0.25, 0.7, 0.5, 0.35],
        "rope_scaling": _LINEAR, "tie_word_embeddings": True,
    },
    "gpt_neox": {"model_type": "gpt_neox", "rotary_pct": 1.0},
    "gpt_neox-all": {
        "model_type": "gpt_neox", "rope_scaling": _LINEAR, "use_parallel_residual": False, "attention_bias": False,
        "tie_word_embeddings": True,
    },
    "gpt2": {"model_type": "gpt2"},
    "gpt2-tied": {"model_type": "gpt2", "tie_word_embeddings": True},
    "gpt_bigcode": {"model_type": "gpt_bigcode", "multi_query": False},
    "gpt_bigcode-all": {"model_type": "gpt_bigcode", "num_key_value_heads": 1, "tie_word_embeddings": True},
    "gpt_neo": {"model_type": "gpt_neo"},
    "gpt_neo-all": {"model_type": "gpt_neo", "attention_types": _GLOBAL_AND_LOCAL, "tie_word_embeddings": True},
    "opt": {"model_type": "opt", "enable_bias": False},
    "opt-all": {"model_type": "opt", "tie_word_embeddings": True},
    "gptj": {"model_type": "gptj", "rotary_dim": 16},
    "gptj-all": {"model_type": "gptj", "tie_word_embeddings": True},
    "gemma": {"model_type": "gemma"},
    "gemma-all": {"model_type": "gemma", **_TIED_WITH_BIASES},
    "gemma2": {"model_type": "gemma2"},
    "gemma2-attention-softcap": {"model_type": "gemma2", "attn_logit_softcapping": 2.0},
    "gemma2-all": {
        "model_type": "gemma2", "layer_types": _LAYER_TYPES, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 8.0, **_TIED_WITH_BIASES,
    },
    "gemma3": {"model_type": "gemma3_text"},
    "gemma3-all": {
        "model_type": "gemma3_text", "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "rope_scaling": _LINEAR, "final_logit_softcapping": 8.0, **_TIED_WITH_BIASES,
    },
    "gemma4": {"model_type": "gemma4_text", "layer_types": None, "global_head_dim": 16},
    "gemma4-inputs": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 32},
    "gemma4-shared": {"model_type": "gemma4_text", "hidden_size_per_layer_input": 32, "num_kv_shared_layers": 1},
    "gemma4-experts": {"model_type": "gemma4_text", **_MIXTURE_GEMMA4},
    "gemma4_unified": {"model_type": "gemma4_unified_text"},
    "gemma4-all": {
        "model_type": "gemma4_text", "attention_k_eq_v": True, "hidden_size_per_layer_input": 32,
        "num_kv_shared_layers": 1, "final_logit_softcapping": 8.0, **_TIED_WITH_BIASES,
    },
    "glm": {"model_type": "glm"},
    "glm-biases": {"model_type": "glm", **_TIED_WITH_BIASES},
    "glm4": {"model_type": "glm4"},
    "glm4-biases": {"model_type": "glm4", **_TIED_WITH_BIASES},
    "granite": {"model_type": "granite"},
    "granite-all": {"model_type": "granite", **_MULTIPLIERS, **_TIED_WITH_BIASES, "mlp_bias": True},
    "granitemoehybrid": {"model_type": "granitemoehybrid"},  # without rotation
    "granitemoehybrid-all": {
        "model_type": "granitemoehybrid", **_MULTIPLIERS, "position_embedding_type": "rope", **_TIED_WITH_BIASES,
    },
    "granitemoehybrid-mamba": {
        "model_type": "granitemoehybrid", **_MULTIPLIERS, "layer_types": ["mamba", "attention", "mamba"],
        "mamba_expand": 1, "mamba_n_groups": 2,
    },
    "granitemoehybrid-experts": {
        "model_type": "granitemoehybrid", **_MULTIPLIERS, "layer_types": ["mamba", "attention", "mamba"],
        "mamba_expand": 2, "num_local_experts": 4, "tie_word_embeddings": True,
    },
    "helium": {"model_type": "helium"},
    "helium-all": {"model_type": "helium", "rope_scaling": _YARN, **_TIED_WITH_BIASES, "mlp_bias": True},
    "hunyuan": {"model_type": "hunyuan_v1_dense"},
    "hunyuan-all": {
        "model_type": "hunyuan_v1_dense", "rope_scaling": {"type": "dynamic", "alpha": 1000.0, "factor": 1.0},
        **_TIED_WITH_BIASES,
    },
    "hyperclovax": {"model_type": "hyperclovax"},
    "hyperclovax-all": {
        "model_type": "hyperclovax", **_MULTIPLIERS, "logits_scaling": 0.125, "attention_multiplier": 0.2,
        **_TIED_WITH_BIASES, "mlp_bias": True,
    },
    "jais2": {"model_type": "jais2"},
    "jais2-all": {"model_type": "jais2", "rope_scaling": _LLAMA3, **_TIED_WITH_BIASES, "mlp_bias": True},
    "lfm2": {"model_type": "lfm2"},
    "lfm2-all": {
        "model_type": "lfm2", "conv_bias": True, "conv_L_cache": 4, "block_auto_adjust_ff_dim": True,
        "block_ff_dim": 120, "block_multiple_of": 16, "layer_types": None, "full_attn_idxs": [1],
        "tie_word_embeddings": True,
    },
    "lfm3": {"model_type": "lfm3"},
    "lfm3-all": {
        "model_type": "lfm3", "conv_bias": True, "layer_types": ["sliding_attention", "full_attention", "conv"],
        "tie_word_embeddings": True,
    },
    "ministral": {"model_type": "ministral"},
    "ministral-all": {"model_type": "ministral", "rope_scaling": _YARN, "tie_word_embeddings": True},
    "ministral3": {"model_type": "ministral3"},
    "ministral3-all": {
        "model_type": "ministral3", "rope_parameters": {"rope_theta": 10000.0, **_YARN, **_SCALED_QUERIES},
        "sliding_window": 5, "tie_word_embeddings": True,
    },
    "nemotron": {"model_type": "nemotron"},
    "nemotron-all": {"model_type": "nemotron", "partial_rotary_factor": 0.25, **_TIED_WITH_BIASES, "mlp_bias": True},
    "nemotron_h": {"model_type": "nemotron_h"},
    "nemotron_h-steps": {"model_type": "nemotron_h", "time_step_min": 0.6},
    "nemotron_h-all": {
        "model_type": "nemotron_h", "layer_types": None, "hybrid_override_pattern": "M*-", "mamba_n_groups": 2,
        "use_conv_bias": False, "mlp_bias": True,
    },
    "olmo": {"model_type": "olmo"},
    "olmo-all": {"model_type": "olmo", **_TIED_WITH_BIASES},
    "glm4_moe": {
        "model_type": "glm4_moe", "use_qk_norm": True, "attention_bias": True, "routed_scaling_factor": 1.5,
        "tie_word_embeddings": True,
    },
    "dots1": {"model_type": "dots1", "norm_topk_prob": True, "routed_scaling_factor": 2.5, "first_k_dense_replace": 1},
    "ernie4_5_moe": {"model_type": "ernie4_5_moe", "moe_layer_end_index": 1},
    "afmoe": {"model_type": "afmoe", "route_scale": 2.5},
    "flint": {"model_type": "flint", "attention_bias": True},
    "exaone_moe": {"model_type": "exaone_moe", "mlp_layer_types": ["sparse", "dense", "sparse"]},
    "minimax_m2": {"model_type": "minimax_m2"},
    "hunyuan_moe": {
        "model_type": "hunyuan_v1_moe", "moe_topk": [2, 3, 2], "num_shared_expert": [1, 1, 1], **_TIED_WITH_BIASES,
    },
    "solar_open": {"model_type": "solar_open", **_TIED_WITH_BIASES},
    "lfm2_moe": {"model_type": "lfm2_moe", "conv_bias": True, "norm_topk_prob": False},
    "granitemoe": {
        "model_type": "granitemoe", "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0,
        **_TIED_WITH_BIASES,
    },
    "gpt_oss": {"model_type": "gpt_oss", "swiglu_limit": 1.5},
    "gpt_oss-all": {
        "model_type": "gpt_oss", "swiglu_limit": 2.5, "rope_scaling": {"rope_type": "default"},
        "attention_bias": False, "layer_types": _LAYER_TYPES, "tie_word_embeddings": True,
    },
    "phimoe": {
        "model_type": "phimoe", "router_jitter_noise": 0.2, "attention_bias": True, "lm_head_bias": True,
        "sliding_window": 5,
    },
    "granite_swa": {"model_type": "granite_swa", "mlp_bias": True, **_MULTIPLIERS},
    "granitemoe_swa": {"model_type": "granitemoe_swa", "layer_rope_theta": None, "attention_bias": True},
    "granitemoeshared": {"model_type": "granitemoeshared", **_MULTIPLIERS, "tie_word_embeddings": True},
    "flex_olmo": {"model_type": "flex_olmo", "attention_bias": True},
    "mixtral": {"model_type": "mixtral"},
    "mixtral-all": {
        "model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 3, "sliding_window": 5,
        "tie_word_embeddings": True,
    },
    "olmoe": {"model_type": "olmoe", "attention_bias": True},
    "qwen2_moe": {"model_type": "qwen2_moe", "mlp_only_layers": [1], "tie_word_embeddings": True},
    "qwen3_5_moe": {
        "model_type": "qwen3_5_moe_text",
        "rope_parameters": {"rope_theta": 10000.0, "mrope_section": [1, 1, 2], "mrope_interleaved": True},
        "tie_word_embeddings": True,
    },
    "qwen3_next": {
        "model_type": "qwen3_next", "norm_topk_prob": False, "linear_num_value_heads": 9, **_TIED_WITH_BIASES,
    },
    "qwen3_moe": {"model_type": "qwen3_moe"},
    "qwen3_moe-some": {"model_type": "qwen3_moe", "mlp_only_layers": [1]},
    "qwen3_moe-all": {  # experts of no whole blocks
        "model_type": "qwen3_moe", "norm_topk_prob": False, "moe_intermediate_size": 48, "use_sliding_window": True,
        "sliding_window": 5, **_TIED_WITH_BIASES,
    },
    "phi": {"model_type": "phi"},
    "phi-all": {"model_type": "phi", "rope_scaling": _LINEAR, "partial_rotary_factor": 0.25},
    "phi3": {"model_type": "phi3"},
    "phi3-partial": {"model_type": "phi3", "partial_rotary_factor": 0.5, "sliding_window": 5},
    "phi3-all": {
        "model_type": "phi3",
        "rope_scaling": {
            "type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
            "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0],
        },
        "original_max_position_embeddings": 16, "partial_rotary_factor": 0.75, "sliding_window": 5,
        "tie_word_embeddings": True,
    },
    "seed_oss": {"model_type": "seed_oss"},
    "seed_oss-biases": {
        "model_type": "seed_oss", "attention_bias": True, "attention_out_bias": True, "mlp_bias": True,
    },
    "stablelm": {"model_type": "stablelm"},
    "stablelm-all": {
        "model_type": "stablelm", "rope_scaling": _LINEAR, "partial_rotary_factor": 0.5, "use_qkv_bias": True,
        "tie_word_embeddings": True,
    },
    "starcoder2": {"model_type": "starcoder2"},
    "starcoder2-all": {"model_type": "starcoder2", "sliding_window": 5, "use_bias": True, "tie_word_embeddings": True},
    "smollm3": {"model_type": "smollm3"},
    "smollm3-all": {
        "model_type": "smollm3", "use_sliding_window": True, "sliding_window": 5, "layer_types": _LAYER_TYPES,
        "rope_scaling": _YARN, **_TIED_WITH_BIASES, "mlp_bias": True,
    },
    "vaultgemma": {"model_type": "vaultgemma"},
    "vaultgemma-all": {
        "model_type": "vaultgemma", "layer_types": _LAYER_TYPES, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 8.0, **_TIED_WITH_BIASES,
    },
}  # fmt: skip
#: Caches of both kinds of layers are shared, one by two layers, whose MLPs are twice as wide.
SHARED_CACHES: dict[str, Any] = {
    **VARIATIONS["gemma4-shared"], "num_hidden_layers": 6,
    "layer_types": ["sliding_attention", *_LAYER_TYPES, "full_attention", "full_attention"], "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True,
}  # fmt: skip
#: Whose configs have no key for the number of KV heads.
_UNNAMED_GROUPS = ("biogpt", "codegen", "falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt")
FAMILIES = tuple(sorted({values["model_type"] for values in VARIATIONS.values()}))


def micro_config(**values: Any) -> dict[str, Any]:
    """A config.json as transformers 4.57 and 5 both read it; `values` replace the defaults."""
    config = {
        "vocab_size": 96,
        "hidden_size": 96,
        "head_dim": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "intermediate_size": 80,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "dtype": "float32",
        **_OF_FAMILY.get(str(values.get("model_type")).removeprefix("seap_"), {}),
        **values,
    }
    older = ("rope_theta", "rope_scaling") if "rope_parameters" in config else ()
    config = {key: value for key, value in config.items() if key not in older}
    if str(config.get("model_type")).removeprefix("seap_") in {family.model_type for family in families()}:
        family = family_of_model_type(config["model_type"])
        for name, key in family.keys.items():  # as the family calls it
            if name in config and key not in config:
                config[key] = config.pop(name)
        if family.has_layer_inputs:
            config["vocab_size_per_layer_input"] = config["vocab_size"]
        if family.head_dim_is_derived and "per_layer_config" not in config:
            del config["head_dim"]
        if family.model_type in _UNNAMED_GROUPS and "per_layer_config" not in config:
            del config["num_key_value_heads"]
        if family.rotation.layers == "none":
            del config["rope_theta"], config["rope_scaling"]
    return deepcopy(config)  # transformers adds to it
