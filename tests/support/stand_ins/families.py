"""Wrong descriptions of Gemma 3, and the config.json of well-known checkpoints with what they say of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support.variations import micro_config

from seap_export.model.families import family_of_model_type
from seap_export.model.families import files as module
from seap_export.model.families.family import Family


def _block(**values: Any) -> Callable[[Family], dict[str, Any]]:
    return lambda right: {"block": dataclasses.replace(right.block, **values)}


def _names(swapped: Mapping[str, str]) -> Callable[[Family], dict[str, Any]]:
    return lambda right: {"names": {**right.names, **{plain: right.names[other] for plain, other in swapped.items()}}}


#: What is left out, and what is said in its place.
WRONG_FAMILIES: dict[str, Callable[[Family], dict[str, Any]]] = {
    "activation": lambda right: {"keys": {}},
    "window": lambda right: {"window": None},
    "local rotation": lambda right: {"rotation": dataclasses.replace(right.rotation, local_theta=None)},
    "attention scale": _block(attention_scale=None),
    "norm offset": _block(norm_offset=0.0),
    "order of norm and rotation": _block(qk_norm="after_rotation"),
    "embedding multiplier": _block(embedding_multiplier=None),
    "soft cap of logits": _block(logits_softcap=None),
    "which norm is where": _names({
        "post_self_attn_layernorm": "post_attention_layernorm", "post_attention_layernorm": "post_self_attn_layernorm",
    }),
    "which of gate and up is which": _names({"gate_proj": "up_proj", "up_proj": "gate_proj"}),
}  # fmt: skip


def describe_gemma3(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Replaces the description of Gemma 3 by one with these changes, in which all keys are said to be harmless."""
    right = family_of_model_type("gemma3_text")
    keys = (*right.harmless, *right.defaults, *micro_config(model_type="gemma3_text"), "final_logit_softcapping")
    wrong = dataclasses.replace(right, **{"harmless": keys, **changes})
    others = tuple(family for family in module.families() if family is not right)
    monkeypatch.setattr(module, "families", lambda: (*others, wrong))


_FACTORS = {"short_factor": [1.0] * 48, "long_factor": [1.1] * 48, "type": "longrope"}
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
    "initializer_range": 0.02, "mlp_bias": False, "model_type": "llama", "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0", "use_cache": True,
}  # fmt: skip
_LLAMA_3_2_1B = {
    **_LLAMA, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_size": 2048,
    "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 16,
    "num_key_value_heads": 8, "rope_theta": 500000.0, "vocab_size": 128256,
    "rope_scaling": {"factor": 32.0, "original_max_position_embeddings": 8192, **_LLAMA3},
}  # fmt: skip
_GEMMA = {
    "architectures": ["GemmaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 2,
    "eos_token_id": 1, "head_dim": 256, "initializer_range": 0.02, "max_position_embeddings": 8192, "pad_token_id": 0,
    "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 256000,
}  # fmt: skip
_GEMMA_3 = {
    **_GEMMA, "architectures": ["Gemma3ForCausalLM"], "attn_logit_softcapping": None, "final_logit_softcapping": None,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 32768, "model_type": "gemma3_text",
    "num_attention_heads": 4, "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rope_local_base_freq": 10000,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "vocab_size": 262144,
}  # fmt: skip
_GEMMA_3_270M = {
    **_GEMMA_3, "_sliding_window_pattern": 6, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 3,
}  # fmt: skip
_GEMMA_3_WRAPPER = {
    "architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000,
    "eos_token_id": [1, 106], "image_token_index": 262144, "initializer_range": 0.02, "mm_tokens_per_image": 256,
    "model_type": "gemma3", "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0", "vision_config": {},
}  # fmt: skip
_GEMMA_3_4B = {
    "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
    "sliding_window": 1024,
}  # fmt: skip
_QWEN = {
    "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "hidden_act": "silu",
    "initializer_range": 0.02, "rms_norm_eps": 1e-06, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip
_PHI_3 = {
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "embd_pdrop": 0.0, "hidden_act": "silu",
    "initializer_range": 0.02, "model_type": "phi3", "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
}  # fmt: skip
_PHI_3_MINI = {
    **_PHI_3, "bos_token_id": 1, "eos_token_id": 32000, "hidden_size": 3072, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096, "pad_token_id": 32000, "vocab_size": 32064,
}  # fmt: skip
_GRANITE = {
    "attention_bias": False, "attention_dropout": 0.0, "embedding_multiplier": 12, "hidden_act": "silu",
    "initializer_range": 0.1, "max_position_embeddings": 131072, "residual_multiplier": 0.22, "rms_norm_eps": 1e-05,
    "rope_scaling": None, "rope_theta": 10000000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "use_cache": True,
}  # fmt: skip
#: Copies of public files.
COPIED: dict[str, dict[str, Any]] = {
    "google/gemma-2b": {
        **_GEMMA, "hidden_act": "gelu", "hidden_size": 2048, "intermediate_size": 16384, "model_type": "gemma",
        "num_attention_heads": 8, "num_hidden_layers": 18, "num_key_value_heads": 1, "rope_scaling": None,
    },
    "google/gemma-2-2b-it": {
        **_GEMMA, "architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid", "final_logit_softcapping": 30.0, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "model_type": "gemma2", "sliding_window": 4096, "hidden_size": 2304,
        "intermediate_size": 9216, "num_attention_heads": 8, "num_hidden_layers": 26, "num_key_value_heads": 4,
        "query_pre_attn_scalar": 256,
    },
    "google/gemma-3-270m": _GEMMA_3_270M,
    "google/translategemma-4b-it": {
        **_GEMMA_3_WRAPPER,
        "text_config": {
            **_GEMMA_3_4B, "_sliding_window_pattern": 6, "attention_bias": False, "attention_dropout": 0.0,
            "dtype": "bfloat16", "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
            "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(34)],
            "max_position_embeddings": 131072, "num_attention_heads": 8, "num_key_value_heads": 4,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000.0,
            "rope_theta": 1000000.0, "use_bidirectional_attention": False, "vocab_size": 262208,
            "rope_parameters": {
                "full_attention": {"factor": 8.0, "rope_type": "linear"},
                "sliding_attention": {"rope_type": "default"},
            },
        },
    },
    "meta-llama/Llama-3.2-1B": _LLAMA_3_2_1B,
    "HuggingFaceTB/SmolLM3-3B": {
        "architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": 128012, "hidden_act": "silu", "hidden_size": 2048,
        "initializer_range": 0.02, "intermediate_size": 11008, "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536, "max_window_layers": 28, "mlp_bias": False, "model_type": "smollm3",
        "no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0] * 9, "num_attention_heads": 16,
        "num_hidden_layers": 36, "num_key_value_heads": 4, "pad_token_id": 128004, "pretraining_tp": 2,
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 5000000.0, "sliding_window": None,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": False, "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "Qwen/Qwen2-7B-Instruct": {
        **_QWEN, "architectures": ["Qwen2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 18944,
        "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2", "num_attention_heads": 28,
        "num_hidden_layers": 28, "num_key_value_heads": 4, "rope_theta": 1000000.0, "sliding_window": 131072,
        "tie_word_embeddings": False, "vocab_size": 152064,
    },
    "Qwen/Qwen3-0.6B": {
        **_QWEN, "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "head_dim": 128, "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28, "model_type": "qwen3",
        "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None,
    },
    "microsoft/Phi-4-mini-instruct": {
        **_PHI_3, "bos_token_id": 199999, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_size": 3072,
        "interpolate_factor": 1, "intermediate_size": 8192, "lm_head_bias": False, "max_position_embeddings": 131072,
        "mlp_bias": False, "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75,
        "rope_scaling": _FACTORS, "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064,
    },
    "mistralai/Ministral-3-3B-Reasoning-2512": {
        "architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16", "image_token_index": 10,
        "model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu",
        "spatial_merge_size": 2, "transformers_version": "5.0.0.dev0", "vision_config": {}, "vision_feature_layer": -1,
        "text_config": {
            "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 3072,
            "initializer_range": 0.02, "intermediate_size": 9216, "max_position_embeddings": 262144,
            "model_type": "ministral3", "num_attention_heads": 32, "num_hidden_layers": 26, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "sliding_window": None, "tie_word_embeddings": True, "use_cache": True,
            "vocab_size": 131072,
            "rope_parameters": {
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
                "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1000000.0,
                "rope_type": "yarn", "type": "yarn",
            },
        },
    },
    "tencent/Hy-MT2-7B": {
        "add_classification_head": False, "architectures": ["HunYuanDenseV1ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.1, "attention_head_dim": 128, "cla_share_factor": 2, "class_num": 0,
        "dense_list": [4096, 0], "head_dim": 128, "hidden_act": "silu", "im_end_id": 5, "im_newline_id": 11,
        "im_start_id": 4, "initializer_range": 0.02, "mask_init_id": 12, "max_position_embeddings": 262144,
        "mlp_bias": False, "model_type": "hunyuan_v1_dense", "norm_type": "rms", "num_key_value_heads": 8,
        "pool_type": "last", "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "rope_scaling": {
            "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
            "type": "dynamic",
        },
        "text_end_id": 7, "text_start_id": 6, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "use_cache": True, "use_cla": False, "use_qk_norm": True, "use_rotary_pos_emb": True, "bos_token_id": 127958,
        "eos_token_id": 127960, "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
        "num_hidden_layers": 32, "org_vocab_size": 128167, "pad_id": 127961, "pad_token_id": 127961,
        "sep_token_id": 127962, "vocab_size": 128167,
    },
    "baidu/ERNIE-4.5-0.3B-PT": {
        "architectures": ["Ernie4_5_ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_ernie4_5.Ernie4_5_Config"}, "bos_token_id": 1, "eos_token_id": 2,
        "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
        "max_position_embeddings": 131072, "model_type": "ernie4_5", "num_attention_heads": 16,
        "num_hidden_layers": 18, "num_key_value_heads": 2, "pad_token_id": 0, "rms_norm_eps": 1e-05,
        "rope_theta": 500000, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_bias": False,
        "use_cache": False, "vocab_size": 103424,
    },
}  # fmt: skip
_GPT_2 = {
    "activation_function": "gelu_new", "bos_token_id": 50256, "attn_pdrop": 0.1, "embd_pdrop": 0.1,
    "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "resid_pdrop": 0.1,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "task_specific_params": {"text-generation": {}},
}  # fmt: skip
_FALCON = {
    "alibi": False, "architectures": ["FalconForCausalLM"], "attention_dropout": 0.0, "bias": False,
    "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "falcon", "parallel_attn": True, "torch_dtype": "bfloat16",
    "use_cache": True, "vocab_size": 65024,
}  # fmt: skip
#: From memory.
REMEMBERED: dict[str, dict[str, Any]] = {
    "openai-community/gpt2": {
        **_GPT_2, "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768,
        "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50257,
    },
    "EleutherAI/gpt-neo-125m": {
        **_GPT_2, "architectures": ["GPTNeoForCausalLM"], "attention_dropout": 0, "embed_dropout": 0,
        "attention_layers": ["global", "local"] * 6, "attention_types": [[["global", "local"], 6]],
        "gradient_checkpointing": False, "hidden_size": 768, "intermediate_size": None,
        "max_position_embeddings": 2048, "model_type": "gpt_neo", "num_heads": 12, "num_layers": 12,
        "resid_dropout": 0, "use_cache": True, "vocab_size": 50257, "window_size": 256,
    },
    "EleutherAI/gpt-j-6b": {
        **_GPT_2, "architectures": ["GPTJForCausalLM"], "gradient_checkpointing": False, "model_type": "gptj",
        "n_embd": 4096, "n_head": 16, "n_inner": None, "n_layer": 28, "n_positions": 2048, "rotary": True,
        "rotary_dim": 64, "scale_attn_weights": True, "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer",
        "use_cache": True, "vocab_size": 50400,
    },
    "Salesforce/codegen-350M-mono": {
        **_GPT_2, "architectures": ["CodeGenForCausalLM"], "bos_token_id": 1, "model_type": "codegen", "n_ctx": 2048,
        "n_embd": 1024, "n_head": 16, "n_inner": None, "n_layer": 20, "n_positions": 2048, "rotary_dim": 32,
        "scale_attn_weights": True, "tie_word_embeddings": False, "use_cache": True, "vocab_size": 51200,
    },
    "bigcode/starcoderbase-1b": {
        **_GPT_2, "activation_function": "gelu_pytorch_tanh", "architectures": ["GPTBigCodeForCausalLM"],
        "attention_softmax_in_fp32": True, "inference_runner": 0, "max_batch_size": None, "max_sequence_length": None,
        "model_type": "gpt_bigcode", "multi_query": True, "n_embd": 2048, "n_head": 16, "n_inner": 8192, "n_layer": 24,
        "n_positions": 8192, "pad_key_length": True, "pre_allocate_kv_cache": False,
        "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True, "use_cache": True,
        "validate_runner_input": True, "vocab_size": 49152,
    },
    "EleutherAI/pythia-160m": {
        "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
        "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 12, "num_hidden_layers": 12,
        "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
        "use_cache": True, "use_parallel_residual": True, "vocab_size": 50304,
    },
    "tiiuae/falcon-7b": {
        **_FALCON, "hidden_size": 4544, "multi_query": True, "new_decoder_architecture": False,
        "num_attention_heads": 71, "num_hidden_layers": 32,
    },
    "tiiuae/falcon-40b": {
        **_FALCON, "hidden_size": 8192, "new_decoder_architecture": True, "num_attention_heads": 128,
        "num_hidden_layers": 60, "num_kv_heads": 8,
    },
    "facebook/opt-125m": {
        "_remove_final_layer_norm": False, "activation_dropout": 0.0, "activation_function": "relu",
        "architectures": ["OPTForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 2, "do_layer_norm_before": True,
        "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 3072, "hidden_size": 768, "init_std": 0.02, "layerdrop": 0.0,
        "max_position_embeddings": 2048, "model_type": "opt", "num_attention_heads": 12, "num_hidden_layers": 12,
        "pad_token_id": 1, "prefix": "</s>", "torch_dtype": "float16", "use_cache": True, "vocab_size": 50272,
        "word_embed_proj_dim": 768,
    },
    "google/gemma-3-4b-it": {
        **_GEMMA_3_WRAPPER, "text_config": {**_GEMMA_3_4B, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    },
    "mistralai/Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu",
        "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 32768,
        "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.34.0.dev0", "use_cache": True, "vocab_size": 32000,
    },
    "microsoft/Phi-3-mini-4k-instruct": {
        **_PHI_3_MINI, "max_position_embeddings": 4096, "rope_scaling": None, "sliding_window": 2047,
    },
    "ibm-granite/granite-3.3-2b-instruct": {
        **_GRANITE, "architectures": ["GraniteForCausalLM"], "attention_multiplier": 0.015625, "bos_token_id": 0,
        "eos_token_id": 0, "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
        "logits_scaling": 8.0, "mlp_bias": False, "model_type": "granite", "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "pad_token_id": 0, "vocab_size": 49159,
    },
    "LGAI-EXAONE/EXAONE-4.0-32B": {
        "architectures": ["Exaone4ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 361,
        "hidden_act": "silu", "initializer_range": 0.02, "model_type": "exaone4", "num_key_value_heads": 8,
        "pad_token_id": 0, "rms_norm_eps": 1e-05, "rope_theta": 1000000, "torch_dtype": "bfloat16",
        "rope_scaling": {"factor": 16.0, "original_max_position_embeddings": 8192, **_LLAMA3},
        "transformers_version": "4.54.0.dev0", "use_cache": True, "vocab_size": 102400, "head_dim": 128,
        "hidden_size": 5120, "intermediate_size": 27392,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 16, "max_position_embeddings": 131072,
        "num_attention_heads": 40, "num_hidden_layers": 64, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
        "tie_word_embeddings": False,
    },
    "ibm-granite/granite-4.0-micro": {
        **_GRANITE, "architectures": ["GraniteMoeHybridForCausalLM"], "bos_token_id": 100257, "eos_token_id": 100257,
        "init_method": "mup", "mamba_chunk_size": 256, "mamba_conv_bias": True, "mamba_d_conv": 4,
        "mamba_d_state": 256, "mamba_expand": 2, "mamba_n_groups": 1, "mamba_proj_bias": False,
        "model_type": "granitemoehybrid", "normalization_function": "rmsnorm", "num_experts_per_tok": 0,
        "num_local_experts": 0, "output_router_logits": False, "pad_token_id": 100256,
        "position_embedding_type": "rope", "router_aux_loss_coef": 0.01, "vocab_size": 100352,
        "attention_multiplier": 0.015625, "hidden_size": 2560, "intermediate_size": 8192,
        "layer_types": ["attention"] * 40, "logits_scaling": 10, "num_attention_heads": 40, "num_hidden_layers": 40,
        "num_key_value_heads": 8, "shared_intermediate_size": 8192,
    },
    "THUDM/GLM-4-9B-0414": {
        "architectures": ["Glm4ForCausalLM"], "attention_bias": True, "attention_dropout": 0.0,
        "eos_token_id": [151329, 151336, 151338], "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096,
        "initializer_range": 0.02, "intermediate_size": 13696, "max_position_embeddings": 32768, "model_type": "glm4",
        "num_attention_heads": 32, "num_hidden_layers": 40, "num_key_value_heads": 2, "pad_token_id": 151329,
        "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.52.0.dev0", "use_cache": True, "vocab_size": 151552,
    },
    "ByteDance-Seed/Seed-OSS-36B-Instruct": {
        "architectures": ["SeedOssForCausalLM"], "attention_bias": True, "attention_dropout": 0.1,
        "attention_out_bias": False, "bos_token_id": 0, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 27648, "max_position_embeddings": 524288,
        "mlp_bias": False, "model_type": "seed_oss", "num_attention_heads": 80, "num_hidden_layers": 64,
        "num_key_value_heads": 8, "pad_token_id": 1, "residual_dropout": 0.1, "rms_norm_eps": 1e-06,
        "rope_scaling": {"rope_type": "default"}, "rope_theta": 10000000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.55.0", "use_cache": True, "vocab_size": 155136,
    },
}  # fmt: skip
