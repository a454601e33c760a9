"""A pattern search (Hooke and Jeeves, 1961): takes steps in one direction after another while that helps."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seap_export.common.durable import append

#: The first step and the last one; each is half of the one before.
_FIRST, _LAST = 0.5, 0.125


def directions(layers: int) -> dict[str, npt.NDArray[np.float64]]:
    """By name, changes of the logarithms of the sensitivities, float64 [layers, 2].

    With x from -1 in the first layer to 1 in the last one, they are x, x² - 1/3, a constant and x³ - 3x/5 (the first
    Legendre polynomials but for factors), the same for attention and MLP or opposite in the two. A step of 1
    changes the ratio of two sensitivities by e² between first and last layer, or by e between attention and MLP.
    """
    x = np.linspace(-1.0, 1.0, layers)
    ends, waves, level = 1.5 * (x**2 - 1 / 3), 2.0 * (x**3 - 0.6 * x), np.full(layers, 0.5)
    both = {"depth": (x, x), "ends": (ends, ends), "heads": (level, -level)}
    more = {"heads_depth": (x, -x), "waves": (waves, waves), "heads_ends": (ends, -ends)}
    return {name: np.stack(columns, axis=1) for name, columns in (both | more).items()}


def multipliers(layers: int, steps: Mapping[str, float]) -> npt.NDArray[np.float64]:
    """The factors on the sensitivities after steps in these directions, float64 [layers, 2]."""
    shapes = directions(layers)
    return np.exp(sum((size * shapes[name] for name, size in steps.items()), np.zeros((layers, 2))))


@dataclass(frozen=True)
class BestSteps:
    """The best steps that were tried."""

    steps: Mapping[str, float]
    before: float
    after: float
    trials: int


class TrialLog:
    """Measurements in the order in which they were made, in a file, so that an interrupted search goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        self._earlier = [float(json.loads(line)) for line in lines]

    def next(self, measure: Callable[[], float]) -> float:
        """The next measurement: that of the earlier call, if there was one."""
        if self._earlier:
            return self._earlier.pop(0)
        value = measure()
        append(self._path, f"{json.dumps(value)}\n".encode())
        return value


def search(
    names: Sequence[str],
    propose: Callable[[Mapping[str, float]], Hashable],
    measure: Callable[[Mapping[str, float]], float],
    trials: int,
) -> BestSteps:
    """Takes a step in each direction, or the opposite one, and keeps what lowers the divergence.

    When no step does, steps are halved. The way that helped last is tried first.
    """
    divergences: dict[Hashable, float] = {}

    def divergence(steps: Mapping[str, float]) -> float:
        proposed = propose(steps)
        if proposed not in divergences:
            divergences[proposed] = measure(steps)
        return divergences[proposed]

    steps, signs, size = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0), _FIRST
    before = best = divergence(steps)
    while size >= _LAST and len(divergences) < trials:
        start = best
        for name in names:
            for sign in (signs[name], -signs[name]):
                if len(divergences) == trials:
                    break
                tried = {**steps, name: steps[name] + sign * size}
                if (value := divergence(tried)) < best:
                    steps, best, signs[name] = tried, value, sign
                    break
        if best == start:
            size /= 2
    return BestSteps({name: size for name, size in steps.items() if size}, before, best, len(divergences))
