"""Rotary position embedding: the frequencies of each variant, and tables of their cosines and sines.

The computation follows transformers step by step in float32, so that the tables are bitwise equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from seap_export.model.families import RopeSpec


def inverse_frequencies(rope: RopeSpec, *, long: bool = False) -> torch.Tensor:
    """The angular frequencies of the rotation, float32 [rope.dim / 2].

    Args:
        rope: Variant and parameters.
        long: The frequencies of longrope for inputs longer than `rope.switches_at`; the others have one set.
    """
    powers = rope.theta ** (torch.arange(0, rope.dim, 2, dtype=torch.float32) / rope.dim)
    match rope.rope_type:
        case "linear":
            return 1.0 / powers / rope.parameters["factor"]
        case "llama3":
            return _llama3(1.0 / powers, rope.parameters)
        case "yarn":
            return _yarn(powers, rope)
        case "proportional":
            factor = rope.parameters.get("factor", 1.0)
            rotated = int(rope.parameters.get("partial_rotary_factor", 1.0) * rope.dim // 2)
            return torch.cat((1.0 / powers[:rotated], torch.zeros(len(powers) - rotated))) / factor
        case "longrope":
            factors = rope.parameters["long_factor" if long else "short_factor"]
            return 1.0 / (torch.tensor(factors, dtype=torch.float32) * powers)
        case _:
            return 1.0 / powers


def attention_factor(rope: RopeSpec) -> float:
    """The factor on cosines and sines: the given one, or the one that the scaling implies; 1.0 without scaling."""
    if rope.rope_type not in ("yarn", "longrope"):
        return 1.0
    parameters = rope.parameters
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    if rope.rope_type == "longrope":
        original = parameters["original_max_position_embeddings"]
        factor = parameters.get("factor") or rope.max_position_embeddings / original
        return 1.0 if factor <= 1.0 else math.sqrt(1 + math.log(factor) / math.log(original))

    def magnitude(weight: float) -> float:
        factor = parameters["factor"]
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    mscale, all_dims = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return magnitude(mscale) / magnitude(all_dims) if mscale and all_dims else magnitude(1)


def rotary_tables(rope: RopeSpec, positions: int, *, long: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the first positions, each float32 [positions, rope.dim / 2]; `long` as above."""
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * inverse_frequencies(rope, long=long)
    factor = attention_factor(rope)
    return angles.cos() * factor, angles.sin() * factor


def pair_swap(rope: RopeSpec, size: int) -> torch.Tensor:
    """The matrix that brings -x2 to the place of x1 and x1 to that of x2, for each pair (x1, x2) that rotates.

    Args:
        size: Channels of a head.

    Returns:
        float32 [size, size], [out, in]; channels that do not rotate become 0.
    """
    swap = torch.zeros(size, size)
    for pair in range(rope.dim // 2):
        one, two = (2 * pair, 2 * pair + 1) if rope.interleaved else (pair, pair + rope.dim // 2)
        swap[one, two], swap[two, one] = -1.0, 1.0
    return swap


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


def _yarn(powers: torch.Tensor, rope: RopeSpec) -> torch.Tensor:
    """Interpolates low frequencies by `factor`, keeps high ones, and ramps from one to the other."""
    parameters, half = rope.parameters, powers.numel()
    context = parameters["original_max_position_embeddings"]

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
