"""RMS norms and LayerNorm, computed in float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seap_export.model.families import NormSpec


def rms_norm(x: torch.Tensor, gain: torch.Tensor, epsilon: float) -> torch.Tensor:
    """The RMS norm over the last axis, float32."""
    return gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))


@dataclass(frozen=True)
class Norm:
    """A norm of the residual stream.

    Attributes:
        spec: The description of the norm.
        gain: The gain, [hidden_size].
        bias: The bias, [hidden_size]; None: there is none.
    """

    spec: NormSpec
    gain: torch.Tensor
    bias: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The norm of x [..., hidden_size], float32, on the device of `x`."""
        if self.spec.is_centred:
            x = x - x.mean(-1, keepdim=True)
        normed = rms_norm(x, self.gain.to(x.device).float(), self.spec.epsilon)
        return normed if self.bias is None else normed + self.bias.to(x.device).float()
