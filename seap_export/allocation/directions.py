"""The directions that a search goes in: smooth changes of the halves' sensitivities over the depth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["directions", "multipliers"]


def directions(layers: int) -> dict[str, npt.NDArray[np.float64]]:
    """By name, changes of the logarithms of the sensitivities, float64 [layers, 2].

    With x from -1 in the first layer to 1 in the last one, they are x, x² - 1/3, a constant and x³ - 3x/5 (the first
    Legendre polynomials but for factors), the same for both halves or opposite in attention and MLP. A step of 1
    changes the ratio of two sensitivities by e² between first and last layer, or by e between attention and MLP.
    """
    x = np.linspace(-1.0, 1.0, layers)
    ends, waves, level = 1.5 * (x**2 - 1 / 3), 2.0 * (x**3 - 0.6 * x), np.full(layers, 0.5)
    both = {"depth": (x, x), "ends": (ends, ends), "heads": (level, -level)}
    more = {"heads_depth": (x, -x), "waves": (waves, waves), "heads_ends": (ends, -ends)}
    return {name: np.stack(halves, axis=1) for name, halves in (both | more).items()}


def multipliers(layers: int, steps: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """What the sensitivities are multiplied with after steps in these directions, float64 [layers, 2]."""
    known = directions(layers)
    return np.exp(sum((size * known[name] for name, size in steps.items()), np.zeros((layers, 2))))
