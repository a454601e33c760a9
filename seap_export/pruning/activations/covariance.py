"""Streaming covariance of activations, from which a projection with fewer channels is reconstructed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

#: Rows of the matrix computed at a time, only from the diagonal to the right, which saves nearly half of the work.
_STRIP = 256
#: Tokens whose products are summed in float32 before float64 takes over.
_BLOCK = 4096


class CovarianceAccumulator:
    """Sums of x, y, x xᵀ and y xᵀ over weighted tokens, for the covariances of x with itself and with y.

    Values are shifted by the mean of the first block before they are multiplied, so that a channel whose mean is
    large against its spread keeps its variance (as in `moments`); blocks of products in float32 are summed in float64.

    The sums are where the first values were. A result takes the memory of its sums, so each can be had once, and
    nothing can be added afterwards.
    """

    def __init__(self) -> None:
        self._weight = 0.0
        self._shift = torch.empty(0)
        self._target_shift = torch.empty(0)
        self._sum = torch.empty(0)
        self._square = torch.empty(0)
        self._target_sum = torch.empty(0)
        self._cross = torch.empty(0)

    def update(
        self, values: torch.Tensor, targets: torch.Tensor | None = None, weights: torch.Tensor | None = None
    ) -> None:
        """Adds real tokens.

        Args:
            values: x, float32 [tokens, channels].
            targets: y, float32 [tokens, outputs], or None in every call.
            weights: Positive weight of each token, float32 [tokens]; None: 1.
        """
        if not len(values):
            return
        if self._weight == 0.0:
            self._start(values, targets)
        for start in range(0, len(values), _BLOCK):
            block = slice(start, start + _BLOCK)
            self._add(
                values[block], None if targets is None else targets[block], None if weights is None else weights[block]
            )

    def _start(self, values: torch.Tensor, targets: torch.Tensor | None) -> None:
        channels = values.shape[1]
        self._shift = values[:_BLOCK].double().mean(0).float()
        zeros = partial(torch.zeros, dtype=torch.float64, device=values.device)
        self._sum = zeros(channels)
        self._square = zeros(channels, channels)
        if targets is not None:
            self._target_shift = targets[:_BLOCK].double().mean(0).float()
            self._target_sum = zeros(targets.shape[1])
            self._cross = zeros(targets.shape[1], channels)

    def _add(self, values: torch.Tensor, targets: torch.Tensor | None, weights: torch.Tensor | None) -> None:
        shifted = values - self._shift
        weighted = shifted if weights is None else shifted * weights.unsqueeze(1)
        self._weight += len(values) if weights is None else float(weights.double().sum())
        self._sum += weighted.sum(0)
        add_products(self._square, weighted, shifted)
        if targets is not None:
            moved = targets - self._target_shift
            self._target_sum += (moved if weights is None else moved * weights.unsqueeze(1)).sum(0)
            self._cross += moved.T @ weighted

    @property
    def weight(self) -> float:
        return self._weight

    def mean(self) -> torch.Tensor:
        """Mean of x, float64 [channels]."""
        return self._shift + self._sum / self._weight

    def covariance(self) -> torch.Tensor:
        """Population covariance of x, float64 [channels, channels], symmetric."""
        return mirrored(self._upper())

    def packed_covariance(self) -> torch.Tensor:
        """Population covariance of x, packed by `pack_symmetric`."""
        return pack_symmetric(self._upper())

    def _upper(self) -> torch.Tensor:
        square, self._square = self._square, torch.empty(0)
        offset = self._sum / self._weight
        return square.div_(self._weight).addr_(offset, offset, alpha=-1.0)

    def target_mean(self) -> torch.Tensor:
        """Mean of y, float64 [outputs]."""
        return self._target_shift + self._target_sum / self._weight

    def cross_covariance(self) -> torch.Tensor:
        """Covariance of y with x, float64 [outputs, channels]."""
        cross, self._cross = self._cross, torch.empty(0)
        offset, target_offset = self._sum / self._weight, self._target_sum / self._weight
        return cross.div_(self._weight).addr_(target_offset, offset, alpha=-1.0)


def _strips(channels: int) -> Iterator[slice]:
    for start in range(0, channels, _STRIP):
        yield slice(start, min(start + _STRIP, channels))


def add_products(matrix: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Adds leftᵀ right of tokens, [tokens, n] each, to the upper triangle of a float64 matrix [n, n]."""
    for strip in _strips(len(matrix)):
        matrix[strip, strip.start :] += left[:, strip].T @ right[:, strip.start :]


def pack_symmetric(matrix: torch.Tensor) -> torch.Tensor:
    """The upper triangle of a symmetric matrix [n, n], row by row, on the CPU; float32 [n (n + 1) / 2]."""
    n = len(matrix)
    packed, end = torch.empty(n * (n + 1) // 2), 0
    for strip in _strips(n):
        for row, values in enumerate(matrix[strip].float().cpu(), start=strip.start):
            start, end = end, end + n - row
            packed[start:end] = values[row:]
    return packed


def add_packed(matrix: torch.Tensor, packed: torch.Tensor, weight: float) -> None:
    """Adds what `pack_symmetric` packed, times a weight, to the upper triangle of a float64 matrix."""
    n = len(matrix)
    for row, values in enumerate(packed.split([n - row for row in range(n)])):
        matrix[row, row:].add_(values, alpha=weight)


def mirrored(matrix: torch.Tensor) -> torch.Tensor:
    """Overwrites the lower triangle of a matrix [n, n] by the upper one; returns that matrix."""
    for strip in _strips(len(matrix)):
        corner = matrix[strip, strip]
        corner.copy_(corner.triu() + corner.triu(1).T)
        matrix[strip.stop :, strip] = matrix[strip, strip.stop :].T
    return matrix
