"""Norms in float32."""

from __future__ import annotations

import torch

__all__ = ["rms_norm"]


def rms_norm(x: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The RMS norm over the last axis, float32."""
    return gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))
