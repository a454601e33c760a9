"""Backward elimination of single channels: the error of a projection after the best refit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from seap_export.pruning.plan.elimination.refit import Refit, removal_losses

#: Fraction of the remaining channels that is removed before the others are evaluated again.
_FRACTION = 1 / 8
#: Down to this ridge single precision will do: the condition number is at most its reciprocal, so that the rounding
#: error of an inverse stays below a percent. That of a loss is smaller by far.
_SINGLE_PRECISION_RIDGE = 1e-5


def eliminate_channels(
    weight: torch.Tensor, covariance: torch.Tensor, ridge: float, fraction: float = _FRACTION
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Backward elimination of input channels.

    Those whose removal increases the loss least go first, a fraction of the channels left at a time (at least one),
    and then the increases are computed again. The work of each round shrinks with the square of what is left.

    Args:
        weight: Weight, [out, channels], on the covariance's device.
        covariance: Centred covariance of the input, float64 [channels, channels].
        ridge: Fraction of the sum of the variances.
        fraction: Fraction of the remaining channels removed per round; 0 removes them one by one, which is the slowest
            and most careful choice.

    Returns:
        All channels, the last removed first, int64 [channels]; the loss for each number of channels kept, float64
        [channels + 1]. Where the loss would fall as channels are removed (see `Refit`), it stays.

    Raises:
        UsageError: The ridge is too small for the covariance.
    """
    channels, total = weight.shape[1], float(covariance.trace())
    if not total > 0.0:
        return np.arange(channels), np.zeros(channels + 1)
    # On the scale where the sum is 1, single precision neither overflows nor vanishes.
    scaled = torch.empty_like(covariance, dtype=torch.float32 if ridge >= _SINGLE_PRECISION_RIDGE else torch.float64)
    order = removal_order(weight, torch.div(covariance, total, out=scaled), ridge, fraction).flip(0)
    losses = removal_losses(weight, torch.div(covariance, total, out=scaled), ridge, order).mul_(total)
    loss = losses.flip(0).cummax(0).values.flip(0)
    return order.cpu().numpy(), loss.cpu().numpy()


def removal_order(weight: torch.Tensor, covariance: torch.Tensor, ridge: float, fraction: float) -> torch.Tensor:
    """All channels, the first removed first, int64 [channels]; the arguments are those of `Refit`."""
    refit = Refit(weight, covariance, ridge)
    removed: list[torch.Tensor] = []
    while len(left := refit.left):
        lowest = torch.sort(refit.increases(), stable=True).indices[: max(1, int(fraction * len(left)))]
        removed.append(left[lowest])
        refit.remove(left[lowest])
    return torch.cat(removed)
