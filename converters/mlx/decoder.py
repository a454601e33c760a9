"""Describes a decoder for config.json, from which `modeling_mlx.py` reads it, without reference to any family."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch

from seap_export.model.families import (
    Attention,
    Convolution,
    DeltaNet,
    Experts,
    LayerInput,
    LayerSpec,
    Mlp,
    ModelSpec,
    RopeSpec,
    SharedExpert,
    Sublayer,
)
from seap_export.model.families.names import NORMS, PROJECTIONS
from seap_export.model.layers.sublayers.rotary import attention_factor, inverse_frequencies


def described(spec: ModelSpec) -> dict[str, Any]:
    """All that `modeling_mlx.py` needs to know of a model, as JSON."""
    block, attention, ropes = spec.block, spec.first(Attention), spec.ropes
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "rms_norm_eps": spec.norm.epsilon,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "norms": [norm for norm in NORMS if norm in spec.norms],
        "qk_norm": attention.qk_norm,
        "activation": next(sublayer.activation for sublayer in spec.sublayers if isinstance(sublayer, Mlp | Experts)),
        "attention_softcap": attention.softcap,
        "query_scaling": None if attention.query_scaling is None else asdict(attention.query_scaling),
        "residual_multiplier": attention.multiplier,
        "embedding_multiplier": block.embedding_multiplier,
        "logits_multiplier": block.logits_multiplier,
        "logits_softcap": block.logits_softcap,
        "layer_inputs": spec.layer_inputs,
        "ropes": [_rope(rope) for rope in ropes],
        "layers": [_layer(layer, ropes) for layer in spec.layers],
    }


def _rope(rope: RopeSpec) -> dict[str, Any]:
    """A rotation by the inverses of its frequencies, which is what `mlx.core.fast.rope` takes."""
    described = {
        "dims": rope.dim,
        "interleaved": rope.interleaved,
        "factor": attention_factor(rope),
        "periods": _periods(rope, long=False),
    }
    if rope.switches_at is not None:
        described |= {"switches_at": rope.switches_at, "long_periods": _periods(rope, long=True)}
    return described


def _periods(rope: RopeSpec, long: bool) -> list[float | None]:
    """The positions in which each pair turns by one radian; None: it does not turn."""
    frequencies = inverse_frequencies(rope, long=long)
    periods = (1.0 / frequencies.double()).to(torch.float32).tolist()
    return [period if math.isfinite(period) else None for period in periods]


def _layer(layer: LayerSpec, ropes: list[RopeSpec]) -> dict[str, Any]:
    first = layer.sublayers[0]
    described = {
        **_mixer(first, ropes),
        "width": sum(sublayer.intermediate_size for sublayer in layer.sublayers if isinstance(sublayer, Mlp)),
        "biases": [projection for projection in PROJECTIONS if projection in layer.biases],
        "inputs": sum(sublayer.channels for sublayer in layer.sublayers if isinstance(sublayer, LayerInput)),
        "scaled": layer.sublayers[-1].scales_stream,
    }
    experts = next((sublayer for sublayer in layer.sublayers if isinstance(sublayer, Experts)), None)
    return described if experts is None else described | {"experts": _experts(experts, layer)}


def _mixer(mixer: Sublayer, ropes: list[RopeSpec]) -> dict[str, Any]:
    """The sublayer in front of the MLP, under the name of its kind."""
    match mixer:
        case Attention():
            return {
                "attention": {
                    "heads": mixer.num_attention_heads,
                    "kv_heads": mixer.num_key_value_heads,
                    "head_dim": mixer.head_dim,
                    "scale": mixer.scale,
                    "window": mixer.sliding_window,
                    "rope": None if mixer.rope is None else ropes.index(mixer.rope),
                    "readers": list(mixer.readers),
                    "norms": dict(mixer.inner_norms()),
                    "gate": mixer.gate,
                    "lender": mixer.cache_of,
                }
            }
        case Convolution():
            has_bias = "kernel_bias" in mixer.inner_tensors()
            sizes = {"channels": mixer.conv_dim, "kernel_size": mixer.kernel_size, "kernel_bias": has_bias}
            return {"convolution": sizes}
        case DeltaNet():
            return {
                "delta_net": {
                    "value_heads": mixer.linear_num_value_heads,
                    "key_heads": mixer.linear_num_key_heads,
                    "key_dim": mixer.key_head_dim,
                    "value_dim": mixer.value_head_dim,
                    "kernel_size": mixer.kernel_size,
                }
            }
    raise TypeError(f"{type(mixer).__name__} is no mixer of the model file")


def _experts(experts: Experts, layer: LayerSpec) -> dict[str, Any]:
    """A mixture, and the expert that all tokens share, which has 0 neurons where there is none."""
    shared = next((sublayer for sublayer in layer.sublayers if isinstance(sublayer, SharedExpert)), None)
    return {
        "number": experts.num_experts,
        "width": experts.moe_intermediate_size,
        "per_token": experts.experts_per_token,
        "scores": experts.scores,
        "normalised": experts.is_normalised,
        "scaling": experts.scaling,
        "selection_bias": experts.has_selection_bias,
        "shared_width": 0 if shared is None else shared.shared_expert_intermediate_size,
        "shared_scale": shared is not None and shared.has_scale,
    }
