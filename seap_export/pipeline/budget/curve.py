"""The KL of candidates, from guessed costs of pruning and rounding and from measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from seap_export.pipeline.targets.candidate import Candidate, Point
from seap_export.pipeline.targets.guess import USUAL, Guess
from seap_export.pruning.rounding.grid import USUAL_AVERAGE

_POWERS = 0.5, 6.0
_LEAST = 1e-9
#: The guess of what pruning costs, beside that of rounding, may be wrong by this factor either way.
_UNSURE = 1.35


class KlCurve:
    """KL is about the cost of rounding plus the cost of pruning.

    In a way with the same bits for all, the first was measured of the dense model, and the second is a power of the
    ratio through the evaluated points. With bits for each matrix, both are guessed, and corrected by the factor that
    measured candidates differ by. What dropped tokens lose is the same whatever else is done, and comes on top.
    """

    def __init__(self, points: Sequence[Point], guess: Guess = USUAL) -> None:
        self._points, self._guess = points, guess

    def dense(self, way: Candidate) -> float:
        """The KL of the dense model, written in this way, and with these bits where they are a choice."""
        if way.format.average is not None:
            return self._mixed(way, 0.0, 1.0)
        return next(point.figures.kl.mean for point in self._points if point.candidate == way.way)

    def at(self, candidate: Candidate) -> float:
        """The predicted KL divergence of a candidate, in nats per token."""
        if candidate.format.average is not None:
            return self._mixed(candidate, candidate.ratio, 1.0)
        return self.dense(candidate.way) + self._pruning(candidate.way, candidate.ratio)

    def least(self, candidate: Candidate) -> float:
        """The least KL that a candidate with bits for each matrix may have, since the guess may be wrong."""
        return min(self._mixed(candidate, candidate.ratio, factor) for factor in (1 / _UNSURE, 1.0, _UNSURE))

    def ratio(self, way: Candidate, kl: float) -> float:
        """The ratio at which a candidate has about this KL: 0 if rounding alone costs as much, at most 1."""
        wanted, low, high = kl - self.dense(way), 0.0, 1.0
        if wanted <= 0.0:
            return 0.0
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (middle, high) if self._pruning(way.way, middle) < wanted else (low, middle)
        return high

    def _mixed(self, candidate: Candidate, ratio: float, factor: float) -> float:
        """The guess of a candidate, where pruning counts by a factor, corrected by measurements around it."""
        average = candidate.format.average
        assert average is not None
        known, lost = dict[float, float](), self._lost(candidate)
        for point in self._points:
            if (bits := _bits(point.candidate, candidate)) is not None:
                measured = max(point.figures.kl.mean - lost, _LEAST)
                known[point.candidate.ratio] = math.log(measured / self._sum(bits, point.candidate.ratio, factor))
        ratios = sorted(known)
        correction = float(np.interp(ratio, ratios, [known[each] for each in ratios])) if known else 0.0
        return self._sum(average, ratio, factor) * math.exp(correction) + lost

    def _lost(self, candidate: Candidate) -> float:
        kept = candidate.vocabulary
        return next((point.figures.lost_kl for point in self._points if point.candidate.vocabulary == kept), 0.0)

    def _sum(self, average: float, ratio: float, factor: float) -> float:
        return self._guess.of_rounding(average) + factor * self._guess.of_pruning(ratio)

    def _pruning(self, way: Candidate, ratio: float) -> float:
        """The cost of pruning at a ratio: a power law through the two nearest points, or the guess."""
        if not ratio:
            return 0.0
        points = self._costs(way) or [cost for other in self._ways for cost in self._costs(other)]
        if not points:
            return self._guess.of_pruning(ratio)
        points.sort(key=lambda point: abs(math.log(point[0] / ratio)))
        first = points[0]
        second = next((point for point in points if point[0] != first[0]), None)
        if second is None:
            return first[1] * self._guess.of_pruning(ratio) / self._guess.of_pruning(first[0])
        power = math.log(second[1] / first[1]) / math.log(second[0] / first[0])
        return first[1] * float((ratio / first[0]) ** min(max(power, _POWERS[0]), _POWERS[1]))

    @property
    def _ways(self) -> list[Candidate]:
        return list(dict.fromkeys(point.candidate.way for point in self._points))

    def _costs(self, way: Candidate) -> list[tuple[float, float]]:
        """The ratios of a way's pruned points, and the cost of pruning at each."""
        points = [point for point in self._points if point.candidate.way == way and point.candidate.ratio]
        return [
            (point.candidate.ratio, max(point.figures.kl.mean - self.dense(point.candidate), _LEAST))
            for point in points
        ]


def _bits(candidate: Candidate, other: Candidate) -> float | None:
    """The average bits of a measured candidate that tells of another one with bits for each matrix; None: of none.

    That is one with such bits, or the whole model with 4 bits for all.
    """
    grid = candidate.format.arithmetic.quantization
    is_alike = (candidate.format.name, candidate.vocabulary) == (other.format.name, other.vocabulary)
    if not is_alike or grid is None:
        return None
    is_usual = (grid.bits, grid.block_size, grid.rows, candidate.ratio) == (4, 32, False, 0.0)
    return candidate.format.average or (USUAL_AVERAGE if is_usual else None)
