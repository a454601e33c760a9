"""Rotary position embedding: the frequencies of each variant, and the cos/sin caches that the graph looks up.

The computation follows transformers step by step in float32, so that the caches are bitwise equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from seap_export.families import RopeSpec

__all__ = ["inverse_frequencies", "rotary_caches"]


def inverse_frequencies(rope: RopeSpec, head_dim: int, max_position_embeddings: int) -> tuple[torch.Tensor, float]:
    """The angular frequencies of the rotation, and the factor on its cosines and sines.

    Args:
        rope: Variant and parameters.
        head_dim: Size of a head.
        max_position_embeddings: Default for yarn's `original_max_position_embeddings`.

    Returns:
        float32 [head_dim / 2] and the attention factor, 1.0 except for yarn.
    """
    powers = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    match rope.rope_type:
        case "linear":
            return 1.0 / powers / rope.parameters["factor"], 1.0
        case "llama3":
            return _llama3(1.0 / powers, rope.parameters), 1.0
        case "yarn":
            return _yarn(powers, rope, max_position_embeddings), _yarn_attention_factor(rope.parameters)
        case _:
            return 1.0 / powers, 1.0


def rotary_caches(rope: RopeSpec, head_dim: int, max_position_embeddings: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of every position, each float32 [max_position_embeddings, head_dim / 2]."""
    frequencies, factor = inverse_frequencies(rope, head_dim, max_position_embeddings)
    angles = torch.arange(max_position_embeddings, dtype=torch.float32)[:, None] * frequencies
    return angles.cos() * factor, angles.sin() * factor


def _llama3(frequencies: torch.Tensor, parameters: Mapping[str, Any]) -> torch.Tensor:
    """Divides low frequencies by `factor`, keeps high ones, and interpolates in between."""
    factor, low, high = (parameters[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    context = parameters["original_max_position_embeddings"]
    wavelength = 2 * math.pi / frequencies
    scaled = torch.where(wavelength > context / low, frequencies / factor, frequencies)
    blend = (context / wavelength - low) / (high - low)
    blended = (1 - blend) * scaled / factor + blend * scaled
    between = (wavelength >= context / high) & (wavelength <= context / low)
    return torch.where(between, blended, scaled)


def _yarn(powers: torch.Tensor, rope: RopeSpec, max_position_embeddings: int) -> torch.Tensor:
    """Interpolates low frequencies by `factor`, keeps high ones, and ramps from one to the other."""
    parameters, half = rope.parameters, powers.numel()
    context = parameters.get("original_max_position_embeddings") or max_position_embeddings

    def dimension(rotations: float) -> float:
        """The dimension that makes this many rotations within the original context."""
        return (2 * half * math.log(context / (rotations * 2 * math.pi))) / (2 * math.log(rope.theta))

    low: float = dimension(parameters.get("beta_fast") or 32)
    high: float = dimension(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    if low == high:
        high += 0.001  # the ramp must not be empty
    keep = 1 - torch.clamp((torch.arange(half, dtype=torch.float32) - low) / (high - low), 0, 1)
    return 1.0 / (parameters["factor"] * powers) * (1 - keep) + 1.0 / powers * keep


def _yarn_attention_factor(parameters: Mapping[str, Any]) -> float:
    """The given factor, or the one implied by the scaling."""
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])

    def magnitude(weight: float) -> float:
        factor = parameters["factor"]
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    own, all_dims = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return magnitude(own) / magnitude(all_dims) if own and all_dims else magnitude(1)
