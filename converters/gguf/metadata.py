"""The metadata of a GGUF file that say what its model computes.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and llama.cpp's src/llama-model.cpp.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from gguf import GGML_QUANT_VERSION
from numpy.typing import NDArray

from converters.gguf.architectures import Architecture, attention_interval, effective_window, full_rope, local_rope
from converters.gguf.folding import Folding
from converters.gguf.types import Preset
from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    Mamba,
    Mlp,
    ModelSpec,
    RopeSpec,
    SharedExpert,
)
from seap_export.model.layers.sublayers.rotary import attention_factor, inverse_frequencies
from seap_export.model.sources.gguf.file import MODEL_TYPE_KEY

Value: TypeAlias = bool | int | float | str | list[str] | list[int] | list[float] | list[bool]
Metadata: TypeAlias = dict[str, Value]
#: The divisor of the frequency of a pair that does not turn.
_NO_ROTATION = 1e30
_SIZES = {
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "feed_forward_length": "intermediate_size",
}


def model_metadata(architecture: Architecture, spec: ModelSpec, preset: Preset) -> Metadata:
    """All metadata but those of the tokenizer and `general.architecture`."""
    general: Metadata = {"general.type": "model", "general.file_type": preset.number}
    if preset.number > 1:
        general["general.quantization_version"] = GGML_QUANT_VERSION
    form = spec.family.gguf
    is_own = form is not None and form.architecture == architecture.name
    if architecture.varies and not is_own and not Folding.of(architecture, spec).factors:
        general[MODEL_TYPE_KEY] = spec.family.model_type
    specific: Metadata = {
        "vocab_size": spec.vocab_size,
        "context_length": spec.max_position_embeddings,
        "embedding_length": spec.hidden_size,
        "block_count": len(spec.layers),
        **_sizes(architecture, spec),
        **_states(spec),
        **_experts(spec),
        **_heads(architecture, spec),
        **dict.fromkeys(architecture.epsilons, spec.norm.epsilon),
        **_windows(architecture, spec),
        **_factors(architecture, spec),
        **_rotation(architecture, spec),
    }
    return {**general, **{f"{architecture.name}.{key}": value for key, value in specific.items()}}


def rope_tensors(spec: ModelSpec) -> dict[str, NDArray[np.float32]]:
    """The divisors of the rotation's frequencies, float32 [rotated channels / 2], by the names of their tensors."""
    rope = full_rope(spec)
    if rope is None:
        return {}
    if rope.rope_type == "longrope":
        names = {"rope_factors_long.weight": "long_factor", "rope_factors_short.weight": "short_factor"}
        return {name: np.asarray(rope.parameters[key], np.float32) for name, key in names.items()}
    if rope.rope_type not in ("llama3", "proportional"):
        return {}
    plain = RopeSpec(rope.theta, "default", {}, rope.dim)
    factors = inverse_frequencies(plain).double() / inverse_frequencies(rope).double()
    return {"rope_freqs.weight": factors.clamp(max=_NO_ROTATION).float().numpy()}


def _sizes(architecture: Architecture, spec: ModelSpec) -> Metadata:
    of_layers = {key: [layer.sizes.get(name, 0) for layer in spec.layers] for key, name in _SIZES.items()}
    if architecture.varies:
        return {**of_layers}
    sizes: Metadata = {key: max(sizes) for key, sizes in of_layers.items()}
    return {**sizes, **{key: of_layers[key] for key in architecture.lists}}


def _heads(architecture: Architecture, spec: ModelSpec) -> Metadata:
    """The sizes of heads, and for Gemma 4 also those in layers with a window and its other attention keys."""
    if not architecture.normalises_values:
        return {"attention.key_length": spec.head_dim, "attention.value_length": spec.head_dim}
    metadata: Metadata = {
        "attention.shared_kv_layers": sum(attention.cache_of is not None for attention in spec.all(Attention)),
        "embedding_length_per_layer_input": spec.layer_inputs,
    }
    for suffix, has_window in (("", False), ("_swa", True)):
        of_kind = next(one for one in spec.all(Attention) if (one.sliding_window is not None) == has_window)
        for part in ("attention.key_length", "attention.value_length", "rope.dimension_count"):
            metadata[part + suffix] = of_kind.head_dim
    return metadata


def _experts(spec: ModelSpec) -> Metadata:
    """The sizes of a mixture of experts, which some architectures give in place of that of an MLP."""
    experts, shared = next(spec.all(Experts), None), next(spec.all(SharedExpert), None)
    if experts is None:
        return {}
    metadata: Metadata = {
        "feed_forward_length": experts.moe_intermediate_size,
        "expert_feed_forward_length": experts.moe_intermediate_size,
        "expert_count": experts.num_experts,
        "expert_used_count": experts.experts_per_token,
    }
    beside = shared.channels if shared is not None else next((mlp.channels for mlp in spec.all(Mlp)), 0)
    return {**metadata, "expert_shared_feed_forward_length": beside} if beside else metadata


def _states(spec: ModelSpec) -> Metadata:
    """The sizes of convolutions, Mamba-2 and linear attention."""
    for sublayer in spec.sublayers:
        if isinstance(sublayer, Convolution):
            return {"shortconv.l_cache": sublayer.kernel_size}
        if isinstance(sublayer, Mamba):
            return {
                "ssm.conv_kernel": sublayer.kernel_size,
                "ssm.state_size": sublayer.state_size,
                "ssm.group_count": sublayer.mamba_n_groups,
                "ssm.time_step_rank": sublayer.mamba_n_heads,
                "ssm.inner_size": sublayer.channels,
            }
        if isinstance(sublayer, DeltaNet):
            return {
                "ssm.conv_kernel": sublayer.kernel_size,
                "ssm.state_size": sublayer.key_head_dim,
                "ssm.group_count": sublayer.linear_num_key_heads,
                "ssm.time_step_rank": sublayer.linear_num_value_heads,
                "ssm.inner_size": sublayer.channels,
                "full_attention_interval": attention_interval(spec) or 0,
            }
    return {}


def _windows(architecture: Architecture, spec: ModelSpec) -> Metadata:
    if not architecture.windows:
        return {}
    windows = [effective_window(spec, layer) for layer in spec.all(Attention)]
    size = next((window for window in windows if window is not None), None)
    if size is None and not architecture.needs_window:
        return {}
    # where there must be one, the first layer gets one that reaches all positions
    slides = [window is not None for window in windows] if size else [index == 0 for index in range(len(windows))]
    return {
        "attention.sliding_window": size or spec.max_position_embeddings,
        "attention.sliding_window_pattern": slides,
    }


def _factors(architecture: Architecture, spec: ModelSpec) -> Metadata:
    block, attention, metadata = spec.block, spec.first(Attention), Metadata()
    if attention.softcap is not None:
        metadata["attn_logit_softcapping"] = attention.softcap
    if block.logits_softcap is not None or architecture.normalises_values:  # which else caps at 30
        metadata["final_logit_softcapping"] = block.logits_softcap or 0.0
    if attention.query_scaling is not None:
        metadata["attention.temperature_scale"] = attention.query_scaling.beta
    if architecture.scaled_by_keys:
        metadata |= {
            "attention.scale": attention.scale,
            "embedding_scale": block.embedding_multiplier,
            "residual_scale": attention.multiplier,
            "logit_scale": 1.0 / block.logits_multiplier,
        }
    return metadata


def _rotation(architecture: Architecture, spec: ModelSpec) -> Metadata:
    rope, local = full_rope(spec), local_rope(spec)
    if rope is None:
        return {"rope.scaling.finetuned": False}  # Granite 4's word for attention without rotation
    metadata: Metadata = {"rope.dimension_count": rope.dim, "rope.freq_base": float(rope.theta)}
    if DeltaNet in architecture.kinds:  # which pairs rotate by time, height and width, all alike in texts
        pairs = rope.dim // 2
        metadata["rope.dimension_sections"] = [(pairs + 2) // 3, (pairs + 1) // 3, pairs // 3, 0]
    if architecture.local_theta and local is not None:
        metadata["rope.freq_base_swa"] = float(local.theta)
    scaling = _scaling(architecture, rope)
    queries = spec.first(Attention).query_scaling
    if queries is not None:
        scaling["rope.scaling.original_context_length"] = queries.context
    return {**metadata, **scaling}


def _scaling(architecture: Architecture, rope: RopeSpec) -> Metadata:
    given = rope.parameters
    match rope.rope_type:
        case "linear":
            return {"rope.scaling.type": "linear", "rope.scaling.factor": float(given["factor"])}
        case "longrope":
            return {
                "rope.scaling.type": "longrope",
                "rope.scaling.original_context_length": int(given["original_max_position_embeddings"]),
                "rope.scaling.attn_factor": attention_factor(rope),
            }
        case "yarn":
            return _yarn(architecture, rope)
        case _:
            return {}


def _yarn(architecture: Architecture, rope: RopeSpec) -> Metadata:
    given, factor = rope.parameters, float(rope.parameters["factor"])
    metadata: Metadata = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(given["original_max_position_embeddings"]),
    }
    usual = attention_factor(RopeSpec(rope.theta, "yarn", {"factor": factor}, rope.dim))
    if architecture.yarn_betas:
        metadata["rope.scaling.yarn_beta_fast"] = float(given.get("beta_fast") or 32)
        metadata["rope.scaling.yarn_beta_slow"] = float(given.get("beta_slow") or 1)
        if given.get("attention_factor") is None and given.get("mscale") == 1 and given.get("mscale_all_dim"):
            metadata["rope.scaling.yarn_log_multiplier"] = float(given["mscale_all_dim"])
            return metadata
    ratio = attention_factor(rope) / usual
    return metadata if abs(ratio - 1.0) < 1e-9 else {**metadata, "rope.scaling.attn_factor": ratio}
