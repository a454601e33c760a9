"""Describes a decoder for config.json, from which `modeling_mlx.py` reads it, without reference to any family."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from seap_export.model.families import Attention, Experts, LayerSpec, Mlp, ModelSpec, RopeSpec, SharedExpert
from seap_export.model.families.names import NORMS, PROJECTIONS
from seap_export.model.layers.sublayers.rotary import attention_factor, inverse_frequencies


def described(spec: ModelSpec) -> dict[str, Any]:
    """All that `modeling_mlx.py` needs to know of a model, as JSON."""
    block, attention, ropes = spec.block, spec.first(Attention), spec.ropes
    return {
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "head_dim": spec.head_dim,
        "rms_norm_eps": spec.norm.epsilon,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "norms": [norm for norm in NORMS if norm in spec.norms],
        "qk_norm": attention.qk_norm,
        "activation": next(one.activation for one in spec.sublayers if isinstance(one, Mlp | Experts)),
        "attention_scale": attention.scale,
        "attention_softcap": attention.softcap,
        "query_scaling": None if attention.query_scaling is None else asdict(attention.query_scaling),
        "residual_multiplier": attention.multiplier,
        "embedding_multiplier": block.embedding_multiplier,
        "logits_multiplier": block.logits_multiplier,
        "logits_softcap": block.logits_softcap,
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


def _periods(rope: RopeSpec, long: bool) -> list[float]:
    frequencies = inverse_frequencies(rope, long=long)
    periods: list[float] = (1.0 / frequencies.double()).to(torch.float32).tolist()
    return periods


def _layer(layer: LayerSpec, ropes: list[RopeSpec]) -> dict[str, Any]:
    attention = layer[Attention]
    described = {
        "heads": attention.num_attention_heads,
        "kv_heads": attention.num_key_value_heads,
        "width": sum(one.intermediate_size for one in layer.sublayers if isinstance(one, Mlp)),
        "biases": [projection for projection in PROJECTIONS if projection in layer.biases],
        "window": attention.sliding_window,
        "rope": None if attention.rope is None else ropes.index(attention.rope),
    }
    experts = next((one for one in layer.sublayers if isinstance(one, Experts)), None)
    return described if experts is None else described | {"experts": _experts(experts, layer)}


def _experts(experts: Experts, layer: LayerSpec) -> dict[str, Any]:
    """A mixture, and the expert that all tokens share, which has 0 neurons where there is none."""
    shared = next((one for one in layer.sublayers if isinstance(one, SharedExpert)), None)
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
