"""Exact streaming mean and variance of activations, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Tokens converted to float64 at a time: few enough to stay in the processor's cache.
_BLOCK = 128


@dataclass(frozen=True)
class Moments:
    """Statistics of one projection's input over all real calibration tokens.

    Attributes:
        mean: Mean of each channel, float64 [channels].
        variance: Population variance of each channel, float64 [channels].
    """

    count: int
    mean: torch.Tensor
    variance: torch.Tensor

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("moments need at least one token")
        if self.mean.shape != self.variance.shape or self.mean.dim() != 1:
            raise ValueError("mean and variance must be vectors of the same length")

    @property
    def mean_square(self) -> torch.Tensor:
        """E[x^2] of each channel, float64 [channels]."""
        return self.variance + self.mean.square()


class MomentAccumulator:
    """Accumulates `Moments` over batches; the result does not depend on how tokens fall into batches.

    Everything is summed in float64, of values shifted by the mean of the first ones: without the shift, a channel
    whose mean is large against its spread would lose the variance to cancellation
    (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample variance").
    """

    def __init__(self) -> None:
        self._count = 0
        self._shift = torch.empty(0)
        self._sum = torch.empty(0)
        self._sum_of_squares = torch.empty(0)

    def update(self, values: torch.Tensor) -> None:
        """Adds float32 values [tokens, channels]; padding must have been taken out."""
        if self._count == 0:
            self._shift = values[:_BLOCK].double().mean(0)
            self._sum, self._sum_of_squares = torch.zeros_like(self._shift), torch.zeros_like(self._shift)
        self._count += values.shape[0]
        for block in values.split(_BLOCK):
            shifted = block.double().sub_(self._shift)
            self._sum = self._sum + shifted.sum(0)
            self._sum_of_squares = self._sum_of_squares + shifted.mul_(shifted).sum(0)

    def result(self) -> Moments:
        """The moments of all tokens seen, on the CPU."""
        offset = self._sum / self._count
        variance = (self._sum_of_squares / self._count - offset.square()).clamp_(min=0.0)
        return Moments(self._count, (self._shift + offset).cpu(), variance.cpu())
