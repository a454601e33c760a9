"""How KL grows with the ratio, guessed from the candidates that were evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from seap_export.pipeline.targets.candidate import Candidate, Point
from seap_export.pruning.rounding.grid import USUAL_AVERAGE

#: KL of a model without half of its weights, and the power with which it grows, before anything was evaluated: about
#: those of SmolLM2-135M.
_AT_HALF, _POWER = 0.4, 1.5
_POWERS = 0.5, 6.0
_LEAST = 1e-9
#: KL of a model in 4 bits, before anything was evaluated, and the factor that a bit less of each weight has on it: the
#: square of the factor on errors.
_ROUNDED, _OF_A_BIT = 0.03, 4.0


class KlCurve:
    """KL = KL of the dense model, written in the same way, + a power of the ratio through the evaluated points.

    What pruning and what rounding cost add up roughly, so that a way without a point of its own has the others' power.

    Args:
        points: The evaluated candidates: the dense model in every way, and pruned ones.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def dense(self, way: Candidate) -> float:
        """The KL of the dense model, written in this way, and with these bits where they are a choice."""
        average = way.format.average
        if average is None:
            return next(point.figures.kl.mean for point in self._points if point.candidate == way.way)
        known = [
            (bits, kl)
            for point in self._points
            if (bits := _bits(point.candidate, way)) is not None
            for kl in (max(point.figures.kl.mean, _LEAST),)
        ]
        bits, kl = min(known or [(USUAL_AVERAGE, _ROUNDED)], key=lambda point: abs(point[0] - average))
        return kl * _OF_A_BIT ** (bits - average)

    def at(self, candidate: Candidate) -> float:
        """The predicted KL divergence of a candidate, in nats per token."""
        if not candidate.ratio:
            return self.dense(candidate)
        (ratio, cost), power = self._nearest(candidate.way, candidate.ratio)
        return self.dense(candidate) + cost * (candidate.ratio / ratio) ** power

    def ratio(self, way: Candidate, kl: float) -> float:
        """The ratio at which a candidate has about this KL: 0 if rounding alone costs as much, at most 1."""
        wanted = kl - self.dense(way)
        if wanted <= 0.0:
            return 0.0
        near = 0.5
        for _ in range(4):  # the nearest points change with the ratio
            (ratio, cost), power = self._nearest(way.way, near)
            near = min(1.0, ratio * (wanted / cost) ** (1 / power))
        return near

    def _nearest(self, way: Candidate, ratio: float) -> tuple[tuple[float, float], float]:
        """The nearest point, a ratio and what pruning costs there, and the power between the two nearest."""
        points = self._costs(way) or [cost for other in self._ways for cost in self._costs(other)]
        if not points:
            return (0.5, _AT_HALF), _POWER
        points.sort(key=lambda point: abs(math.log(point[0] / ratio)))
        first = points[0]
        second = next((point for point in points if point[0] != first[0]), None)
        if second is None:
            return first, _POWER
        power = math.log(second[1] / first[1]) / math.log(second[0] / first[0])
        return first, min(max(power, _POWERS[0]), _POWERS[1])

    @property
    def _ways(self) -> list[Candidate]:
        return list(dict.fromkeys(point.candidate.way for point in self._points))

    def _costs(self, way: Candidate) -> list[tuple[float, float]]:
        """The ratios of a way's pruned points, and what pruning costs there."""
        points = [point for point in self._points if point.candidate.way == way and point.candidate.ratio]
        return [
            (point.candidate.ratio, max(point.figures.kl.mean - self.dense(point.candidate), _LEAST))
            for point in points
        ]


def _bits(candidate: Candidate, way: Candidate) -> float | None:
    """The average bits of a dense candidate that tells of another way's rounding; None: it tells nothing of it.

    That is one with bits for each matrix, or the one with 4 bits for all.
    """
    how = candidate.format.arithmetic.quantization
    is_alike = (candidate.format.name, candidate.vocabulary) == (way.format.name, way.vocabulary)
    if candidate.ratio or not is_alike or how is None:
        return None
    is_usual = (how.bits, how.block_size) == (4, 32)
    return candidate.format.average or (USUAL_AVERAGE if is_usual else None)
