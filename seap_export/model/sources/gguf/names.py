"""The names of tensors in GGUF files, by those of the plain form."""

from collections.abc import Mapping

NORM_NAMES: Mapping[str, str] = {
    "input_layernorm": "attn_norm.weight",
    "post_self_attn_layernorm": "post_attention_norm.weight",
    "post_attention_layernorm": "ffn_norm.weight",
    "post_mlp_layernorm": "post_ffw_norm.weight",
    "post_layer_input_norm": "post_norm.weight",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
}
PROJECTION_NAMES: Mapping[str, str] = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "qkv_proj": "attn_qkv",
    "gate_up_proj": "ffn_up",
    "q_gate_proj": "attn_q",
    "in_proj": "shortconv.in_proj",
    "out_proj": "shortconv.out_proj",
    "delta_qkv_proj": "attn_qkv",
    "delta_z_proj": "attn_gate",
    "delta_b_proj": "ssm_beta",
    "delta_a_proj": "ssm_alpha",
    "delta_out_proj": "ssm_out",
    "mamba_in_proj": "ssm_in",
    "mamba_out_proj": "ssm_out",
    "router": "ffn_gate_inp",
    "experts_gate_proj": "ffn_gate_exps",
    "experts_up_proj": "ffn_up_exps",
    "experts_down_proj": "ffn_down_exps",
    "shared_gate": "ffn_gate_inp_shexp",
    "shared_gate_proj": "ffn_gate_shexp",
    "shared_up_proj": "ffn_up_shexp",
    "shared_down_proj": "ffn_down_shexp",
    "layer_input_gate": "inp_gate",
    "layer_input_proj": "proj",
}
#: Stems of the tensors outside of the layers.
OUTER_STEMS: Mapping[str, str] = {
    "embed_tokens": "token_embd",
    "lm_head": "output",
    "layer_inputs": "per_layer_token_embd",
    "layer_inputs_proj": "per_layer_model_proj",
    "layer_inputs_norm": "per_layer_proj_norm",
}
