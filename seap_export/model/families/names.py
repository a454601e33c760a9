"""Names of a decoder's tensors inside the pipeline, the same for every family: its plain form.

A checkpoint is brought to the plain form when it is read: projections apart, norm weights as full gains. The names are
those of Llama, and for norms that Llama lacks those of GLM-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Projection = Literal[
    "q_proj", "k_proj", "v_proj", "g_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    "b_proj", "c_proj", "x_proj", "out_proj",
    "delta_qkv_proj", "delta_z_proj", "delta_b_proj", "delta_a_proj", "delta_out_proj",
    "mamba_z_proj", "mamba_x_proj", "mamba_b_proj", "mamba_c_proj", "mamba_dt_proj", "mamba_out_proj",
    "router", "experts_gate_proj", "experts_up_proj", "experts_down_proj",
    "shared_gate", "shared_gate_proj", "shared_up_proj", "shared_down_proj",
    "layer_input_gate", "layer_input_proj",
]  # fmt: skip
PROJECTIONS: tuple[Projection, ...] = get_args(Projection)
#: The projections that attention reads; either all three have a bias or none has.
QKV: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj")
#: The projections that a short convolution reads: the gate before it, the gate after it, and what is convolved.
BCX: tuple[Projection, ...] = ("b_proj", "c_proj", "x_proj")
#: All projections of a short convolution.
CONVOLUTION: tuple[Projection, ...] = (*BCX, "out_proj")
#: The projections of a gated delta net: what is convolved, the output gate, the update rate, the decay, and the
#: output.
DELTA: tuple[Projection, ...] = (
    "delta_qkv_proj", "delta_z_proj", "delta_b_proj", "delta_a_proj", "delta_out_proj",
)  # fmt: skip
#: The projections of Mamba-2: the gate, the values, B and C of each group, the time steps, and the output.
MAMBA: tuple[Projection, ...] = (
    "mamba_z_proj", "mamba_x_proj", "mamba_b_proj", "mamba_c_proj", "mamba_dt_proj", "mamba_out_proj",
)  # fmt: skip
#: The projections of an MLP, and those of a mixture of experts: its router, and those of all experts together.
DENSE: tuple[Projection, ...] = ("gate_proj", "up_proj", "down_proj")
ROUTED: tuple[Projection, ...] = ("router", "experts_gate_proj", "experts_up_proj", "experts_down_proj")
#: The projections of a shared expert: what scales it, and an MLP.
SHARED: tuple[Projection, ...] = ("shared_gate", "shared_gate_proj", "shared_up_proj", "shared_down_proj")
#: The projections of the inputs of a layer: their gate, and the output.
LAYER_INPUTS: tuple[Projection, ...] = ("layer_input_gate", "layer_input_proj")
#: The table of these inputs, what is added to them of the embedding, and its norm, all outside of the layers.
INPUT_TABLES = ("layer_inputs", "layer_inputs_proj", "layer_inputs_norm")
#: The output projections that compensation can give a bias.
OUTPUTS: tuple[Projection, ...] = ("o_proj", "down_proj", "out_proj", "delta_out_proj", "mamba_out_proj")
#: The norms of the residual stream: before and after attention or a convolution, before and after the MLP, and after
#: what inputs of the layer gate; before and after experts and after the MLP beside them, where the norm after the MLP
#: is one of their sum.
Norm = Literal[
    "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm",
    "post_layer_input_norm", "pre_experts_layernorm", "post_experts_layernorm", "post_dense_layernorm",
]  # fmt: skip
NORMS: tuple[Norm, ...] = get_args(Norm)
#: The number of a layer that the stream is multiplied by behind it.
STREAM_SCALE = "stream_scale"

LAYER = "model.layers.{layer}."
_TABLES = {"embed_tokens": "model.embed_tokens.weight", "norm": "model.norm.weight", "lm_head": "lm_head.weight"}
_OUTER = {**_TABLES, "norm_bias": "model.norm.bias", "lm_head_bias": "lm_head.bias"}
_OUTER["positions"] = "model.embed_positions.weight"
_OUTER |= {name: f"model.{name}.weight" for name in INPUT_TABLES}
_INNER: Mapping[str, str] = {
    **{norm: f"{norm}.weight" for norm in NORMS},
    **{f"{norm}_bias": f"{norm}.bias" for norm in NORMS},
    **{name: f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "g_proj", "o_proj")},
    **{name: f"self_attn.{name}.weight" for name in ("q_norm", "k_norm", "v_norm")},
    STREAM_SCALE: "layer_scalar",
    "layer_input_gate": "per_layer_input_gate",
    "layer_input_proj": "per_layer_projection",
    **{name: f"mlp.{name}" for name in DENSE},
    **{name: f"conv.{name}" for name in CONVOLUTION},
    "sinks": "self_attn.sinks",
    "kernel": "conv.conv.weight",
    "kernel_bias": "conv.conv.bias",
    "delta_qkv_proj": "linear_attn.in_proj_qkv",
    "delta_z_proj": "linear_attn.in_proj_z",
    "delta_b_proj": "linear_attn.in_proj_b",
    "delta_a_proj": "linear_attn.in_proj_a",
    "delta_out_proj": "linear_attn.out_proj",
    **{name: f"mamba.{name.removeprefix('mamba_')}" for name in MAMBA},
    "mamba_kernel": "mamba.conv1d.weight",
    "mamba_kernel_bias": "mamba.conv1d.bias",
    "mamba_a_log": "mamba.A_log",
    "mamba_dt_bias": "mamba.dt_bias",
    "mamba_d": "mamba.D",
    "mamba_norm": "mamba.norm.weight",
    "delta_kernel": "linear_attn.conv1d.weight",
    "delta_a_log": "linear_attn.A_log",
    "delta_dt_bias": "linear_attn.dt_bias",
    "delta_norm": "linear_attn.norm.weight",
    "router": "mlp.gate",
    "selection_bias": "mlp.gate.selection_bias",
    "router_norm": "mlp.gate.norm.weight",
    "expert_scale": "mlp.gate.expert_scale",
    "experts_output_bias": "mlp.experts.output_bias",
    **{f"experts_{name}": f"mlp.experts.{name}" for name in DENSE},
    "shared_gate": "mlp.shared_expert_gate",
    **{f"shared_{name}": f"mlp.shared_expert.{name}" for name in DENSE},
}
_PRODUCTS = frozenset(f"{_INNER[name]}.weight" for name in PROJECTIONS if name not in ROUTED)
#: The names in most families of the parts that most have, as in a description: those in a layer are relative to it.
USUAL_NAMES: Mapping[str, str] = {
    **_TABLES,
    "layer": LAYER,
    **{name: _INNER[name] for name in ("input_layernorm", "post_attention_layernorm", *PROJECTIONS)},
    **{f"experts_{name}": f"mlp.experts.{{expert}}.{name}" for name in DENSE},
}


def tensor(name: str, layer: int | None = None) -> str:
    """The full name of a norm, its bias or an embedding, or that of a projection without `.weight` or `.bias`."""
    return _OUTER[name] if layer is None else LAYER.format(layer=layer) + _INNER[name]


def weight(projection: Projection, layer: int) -> str:
    """The full name of a projection's weight, [out, in]."""
    return tensor(projection, layer) + ".weight"


def bias(projection: Projection, layer: int) -> str:
    """The full name of a projection's bias, [out]."""
    return tensor(projection, layer) + ".bias"


def layer_of(name: str) -> int | None:
    """The layer that a full name belongs to; None: none."""
    parts = name.split(".")
    return int(parts[2]) if parts[:2] == ["model", "layers"] else None


def is_product(name: str) -> bool:
    """Whether a full name is that of a weight that a layer multiplies each token with, as it does not with experts."""
    return layer_of(name) is not None and name.split(".", 3)[3] in _PRODUCTS
