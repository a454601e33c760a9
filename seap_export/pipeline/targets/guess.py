"""The costs of rounding and pruning, guessed before a candidate was made."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seap_export.pruning.rounding.grid import USUAL_AVERAGE

#: KL and its argument, bits or a ratio.
_Curve = tuple[tuple[float, float], ...]
#: The power of the ratio that KL grows with, where a single ratio was tried.
_POWER = 1.5
_LEAST = 1e-9
#: Hardly any bits of a weight.
_FEW = 2.25


@dataclass(frozen=True)
class Guess:
    """KL in nats per token, of rounding and of pruning, each alone; what both cost adds up roughly.

    Attributes:
        rounded: Average bits of a weight, ascending, and the KL of the whole model with so many.
        pruned: Ratios above 0, ascending, and the KL without so much.
    """

    rounded: _Curve
    pruned: _Curve

    def __post_init__(self) -> None:
        if len(self.rounded) < 2 or not self.pruned:
            raise ValueError("a guess needs two numbers of bits, and a ratio")

    def of_rounding(self, average: float) -> float:
        """The KL of the whole model with so many bits: exponential between and beyond those that are known."""
        (low, first), (high, second) = _around(self.rounded, average)
        slope = math.log(max(second, _LEAST) / max(first, _LEAST)) / (high - low)
        return max(first, _LEAST) * math.exp(slope * (average - low))

    def of_pruning(self, ratio: float) -> float:
        """The KL without so much of the model: a power of the ratio between and beyond those that are known."""
        if not ratio:
            return 0.0
        if len(self.pruned) == 1:
            ((known, kl),) = self.pruned
            return kl * (ratio / known) ** _POWER
        (low, first), (high, second) = _around(self.pruned, ratio)
        power = math.log(max(second, _LEAST) / max(first, _LEAST)) / math.log(high / low)
        return max(first, _LEAST) * (ratio / low) ** power

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Guess:
        """Raises `KeyError`, `TypeError` or `ValueError` if the values are not as `to_json` leaves them."""
        rounded, pruned = (tuple((float(at), float(kl)) for at, kl in values[key]) for key in ("rounded", "pruned"))
        return cls(rounded, pruned)

    def to_json(self) -> dict[str, Any]:
        return {"rounded": [list(point) for point in self.rounded], "pruned": [list(point) for point in self.pruned]}


def _around(curve: Sequence[tuple[float, float]], at: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The two known points on both sides, or the nearest two."""
    above = min(max(bisect([point[0] for point in curve], at), 1), len(curve) - 1)
    return curve[above - 1], curve[above]


#: Before anything is known of a model: about SmolLM2-135M's. A bit less of each weight doubles errors, and KL is as
#: their squares.
USUAL = Guess(((_FEW, 0.03 * 4.0 ** (USUAL_AVERAGE - _FEW)), (USUAL_AVERAGE, 0.03)), ((0.5, 0.4),))
