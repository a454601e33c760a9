"""What a projection loses without some input channels, by solving the refit itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def random_projection(
    channels: int, tokens: int = 40, out: int = 5, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """A float32 weight [out, channels] and the covariance of inputs that depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, channels, generator=generator)
    mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    inputs = torch.randn(tokens, channels, generator=generator, dtype=torch.float64) @ mixing
    inputs *= torch.linspace(0.2, 2.0, channels, dtype=torch.float64)
    return weight, covariance_of(inputs)


def covariance_of(inputs: torch.Tensor) -> torch.Tensor:
    centred = inputs - inputs.mean(0)
    return centred.T @ centred / len(inputs)


def refitted_loss(weight: torch.Tensor, covariance: torch.Tensor, kept: Iterable[int], ridge: float) -> float:
    """min over D of E|W_R x_R - D x_K|^2 + r |D|^2: D from the normal equations, then both terms as they are.

    `ridge` is relative to the sum of the variances of all channels.
    """
    strength = ridge * float(covariance.trace())
    keep = sorted(kept)
    gone = [channel for channel in range(weight.shape[1]) if channel not in keep]
    regular = covariance[keep][:, keep] + strength * torch.eye(len(keep), dtype=torch.float64)
    added = weight.double()[:, gone] @ covariance[gone][:, keep] @ torch.linalg.inv(regular)
    change = torch.zeros(weight.shape, dtype=torch.float64)
    change[:, gone], change[:, keep] = weight.double()[:, gone], -added
    return float((change @ covariance * change).sum() + strength * added.square().sum())
