"""What a config asks for, and no model can have or this package does not compute, is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from support.variations import VARIATIONS, micro_config

from seap_export.errors import InputError
from seap_export.model.families import Attention, Convolution, LayerInput, model_spec

LLAMA, GEMMA_3, GEMMA_4, SMOLLM_3 = (
    {"model_type": name} for name in ("llama", "gemma3_text", "gemma4_text", "smollm3")
)
WRAPPED = {"model_type": "gemma3", "text_config": {}}
GRANITE_4, PHI_3, SMOLLM_3 = ({"model_type": name} for name in ("granitemoehybrid", "phi3", "smollm3"))
KINDS = ["full_attention", "full_attention", "sliding_attention"]
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
SCALED_QUERIES = {"rope_theta": 1e4, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 8}
PARTIAL = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
PHIMOE = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "long_mscale": 1.2}
LONG = VARIATIONS["phi3-all"]["rope_scaling"]
REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # sizes and switches
    (LLAMA, {"hidden_act": "mish"}, "mish"),
    (LLAMA, {"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    *((LLAMA, {"hidden_size": value}, "hidden_size") for value in (-1, 0, 1.5, "96", True, None)),
    *((LLAMA, {key: -1}, key) for key in ("vocab_size", "head_dim", "num_key_value_heads")),
    *((LLAMA, {"rms_norm_eps": value}, "'rms_norm_eps' must be") for value in (-1, 0.0, math.nan, "small", True)),
    (LLAMA, {"num_key_value_heads": 4}, "not a multiple"),
    ({"model_type": "gpt2"}, {"head_dim": 24}, "heads of 24 channels are not as wide as the hidden size"),
    *(({"model_type": "granite"}, {"logits_scaling": value}, "logits_scaling") for value in (0.0, "much", True)),
    ({"model_type": "gemma2"}, {"final_logit_softcapping": 0.0}, "final_logit_softcapping"),
    (VARIATIONS["gemma4-all"], {"num_kv_shared_layers": 3}, "shares the cache of none"),
    (VARIATIONS["gemma4-all"], {"hidden_size_per_layer_input": 0}, "without inputs of layers"),
    (VARIATIONS["gemma4-all"], {"vocab_size_per_layer_input": 95}, "another number of tokens"),
    (GEMMA_4, {"use_bidirectional_attention": "all"}, "bidirectional"),
    (GEMMA_4, {"per_layer_config": {"1": {"head_dim": 24}, "2": {"head_dim": 32}}}, "heads of several sizes"),
    (WRAPPED, {"text_config": None}, "text_config"),
    *((WRAPPED, {"text_config": {"model_type": name}}, name) for name in ("llama", "x")),
    # keys that another family reads, and parts that none has
    ({"model_type": "qwen3"}, {"query_pre_attn_scalar": 1}, "query_pre_attn_scalar"),
    (LLAMA, {"no_rope_layers": 1}, "no_rope_layers"),
    ({"model_type": "granite"}, {"shared_intermediate_size": 1}, "shared_intermediate_size"),
    (LLAMA, {"is_causal": False}, "is_causal.*bidirectional attention"),
    (LLAMA, {"rope_interleaved": True}, "rope_interleaved.*interleaved rotation"),
    (GRANITE_4, {"layers_block_type": ["moe"] * 3}, "layers_block_type.*another layer"),
    ({"model_type": "hunyuan_v1_dense"}, {"num_experts": 16}, "num_experts.*mixture-of-experts layers"),
    (PHI_3, {"lm_head_bias": True}, "lm_head_bias.*a bias of the LM head"),
    # rotations
    (LLAMA, {"rope_scaling": {"rope_type": "mrope"}}, "'mrope' is not supported.*default, linear, llama3"),
    *((LLAMA, {"rope_scaling": {"rope_type": kind}}, "factor") for kind in ("linear", "llama3", "yarn")),
    (LLAMA, {"rope_theta": -1.0}, "rope_theta"),
    (LLAMA, {"rope_parameters": PARTIAL}, r"partial_rotary_factor 0\.5"),
    (LLAMA, {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1]}}, "'mrope_section'"),
    *((LLAMA, {key: value}, key) for value in ([1], "linear", 5) for key in ("rope_scaling", "rope_parameters")),
    ({"model_type": "phimoe"}, {"rope_scaling": {**PHIMOE, "short_mscale": 1.1}}, "'long_mscale' is not known"),
    ({"model_type": "mistral"}, {"rope_parameters": SCALED_QUERIES}, "llama_4_scaling_beta"),
    (PHI_3, {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
    (PHI_3, {"partial_rotary_factor": 0.2}, "pairs"),
    *((SMOLLM_3, {"no_rope_layers": listed}, "no_rope_layers") for listed in ([1, 0], "all")),
    *(
        (VARIATIONS["phi3-all"], {"rope_scaling": {**LONG, key: factors}}, key)
        for key in ("short_factor", "long_factor")
        for factors in ([1.0], "many", None, [*[1.0] * 5, "1"], [0.0] * 6)
    ),
    (LLAMA, {"rope_parameters": {"full_attention": LINEAR, "sliding_attention": LINEAR}}, "one rotation"),
    (GEMMA_4, {"rope_parameters": {"rope_theta": 1e4}}, "one rotation for each kind"),
    (GEMMA_3, {"rope_parameters": LINEAR}, "transformers does not read"),
    (GEMMA_3, {"rope_scaling": {"type": "linear", "factor": 4.0}}, "transformers does not read"),
    # windows
    ({"model_type": "gemma2"}, {"sliding_window_pattern": 3}, "sliding_window_pattern.*another pattern of windows"),
    ({"model_type": "mistral"}, {"layer_types": KINDS}, "layer_types.*window in some layers"),
    (GEMMA_3, {"layer_types": "sliding_attention"}, "every layer"),
    (GEMMA_3, {"layer_types": ["chunked_attention", *KINDS[1:]]}, "chunked_attention"),
    (SMOLLM_3, {"use_sliding_window": True, "sliding_window": 5, "layer_types": None}, "layer_types"),
    (SMOLLM_3, {"sliding_window": 5, "layer_types": KINDS}, "is off"),  # transformers masks these all the same
    *(({"model_type": "mistral"}, {"sliding_window": window}, "sliding_window") for window in (-1, 2**40)),
    *((GEMMA_3, {"sliding_window_pattern": one}, "sliding_window_pattern") for one in (-1, 1.5)),
]


@pytest.mark.parametrize(("base", "values", "says"), REFUSED)
def test_a_config_is_refused_by_name(base: dict[str, Any], values: dict[str, Any], says: str) -> None:
    config = (base if base is WRAPPED else micro_config(**base)) | values
    with pytest.raises(InputError, match=says):
        model_spec(config)


@pytest.mark.parametrize("key", ["clipped_qkv", "peft_config", "bf16"])
def test_a_key_that_no_model_of_transformers_reads_changes_nothing_unless_the_model_has_code(key: str) -> None:
    assert model_spec(micro_config(model_type="llama", **{key: 8})) == model_spec(micro_config(model_type="llama"))
    with pytest.raises(InputError, match=rf"'{key}' is not known for llama"):
        model_spec(micro_config(model_type="llama", auto_map={"AutoModelForCausalLM": "code.Model"}, **{key: 8}))


HEADS = {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 16, "scale": 0.25}


def test_a_sublayer_that_no_model_can_have_is_refused() -> None:
    with pytest.raises(InputError, match="must have a bias"):
        Attention(**HEADS, biases=frozenset({"q_proj", "v_proj", "o_proj"}))
    with pytest.raises(InputError, match="fewer than 2 tokens"):
        Convolution(conv_dim=8, kernel_size=1)
    with pytest.raises(InputError, match="at least one input"):
        LayerInput(layer=0, hidden_size_per_layer_input=0)
