"""Adam, with steps that are relative to the size of each matrix."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

#: Suffixes of a weight's name for the running means of its gradient and of the gradient's square.
FIRST, SECOND = ".first", ".second"
#: The loss, in nats per token, from which on the largest step is taken.
_FULL_RATE_LOSS = 0.3
#: The fraction of all steps in which the rate rises to it; afterwards it falls to zero.
_WARM_UP = 0.1
_BETAS, _TINY = (0.9, 0.95), 1e-16


def learning_rate(step: int, steps: int, largest: float, loss: float) -> float:
    """The rate of a training step.

    It rises linearly at first, and then falls linearly to zero. Near its least value, the loss grows with the square
    of a weight's error, so that there is half as far to go where it is a quarter: below `_FULL_RATE_LOSS`, the rate is
    proportional to its root.

    Args:
        largest: The largest step of a weight, in units of its matrix's root mean square.
        loss: The mean loss before the step, which is 0 at best, in nats per token.
    """
    warm_up = max(1, round(_WARM_UP * steps))
    share = min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up + 1))
    return largest * share * math.sqrt(min(1.0, max(0.0, loss) / _FULL_RATE_LOSS))


class Adam:
    """Changes the weights of a layer by the gradient of a training step (Kingma and Ba 2015, arXiv 1412.6980).

    Rates are relative to the root mean square of a matrix, as in Adafactor (Shazeer and Stern 2018, arXiv 1804.04235),
    so that one rate suits models whose weights are of other sizes.
    """

    def __init__(self, step: int, steps: int, largest: float) -> None:
        self._step, self._steps, self._largest = step, steps, largest
        self._corrections = [1.0 - beta ** (step + 1) for beta in _BETAS]

    def update(self, tensors: dict[str, torch.Tensor], gradients: Mapping[str, torch.Tensor], loss: float) -> None:
        """Changes weights and running means in place; all float32.

        Args:
            loss: The mean loss before the step, in nats per token.
        """
        rate = learning_rate(self._step, self._steps, self._largest, loss)
        for name, gradient in gradients.items():
            weight = tensors[name]
            first, second = (tensors.setdefault(name + suffix, torch.zeros_like(weight)) for suffix in (FIRST, SECOND))
            first.lerp_(gradient, 1.0 - _BETAS[0])
            second.lerp_(gradient.square(), 1.0 - _BETAS[1])
            scale = rate * float(weight.double().square().mean().sqrt())
            norm = (second / self._corrections[1]).sqrt_().add_(_TINY)
            weight.addcdiv_(first, norm, value=-scale / self._corrections[0])
