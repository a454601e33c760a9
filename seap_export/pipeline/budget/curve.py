"""How KL grows with the ratio, guessed from the candidates that were evaluated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from seap_export.pipeline.targets.candidate import Candidate, Point

#: KL of a model without half of its weights, and the power with which it grows, before anything was evaluated: about
#: those of SmolLM2-135M.
_AT_HALF, _POWER = 0.4, 1.5
_POWERS = 0.5, 6.0
_LEAST = 1e-9


class KlCurve:
    """KL = KL of the dense model, written in the same way, + a power of the ratio through the evaluated points.

    What pruning and what rounding cost add up roughly, so that a way without a point of its own has the others' power.

    Args:
        points: The evaluated candidates: the dense model in every way, and pruned ones.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self._points = points

    def dense(self, way: Candidate) -> float:
        """The KL of the dense model, written in this way."""
        return next(point.figures.kl.mean for point in self._points if point.candidate == way.way)

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
        return [(point.candidate.ratio, max(point.figures.kl.mean - self.dense(way), _LEAST)) for point in points]
