"""Chooses a candidate: proposes one after the other, has each evaluated, and learns from the measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from seap_export.pipeline.budget.curve import KlCurve
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.targets.candidate import RATIO_DIGITS, Candidate, CandidateFigures, Point, Times
from seap_export.pipeline.targets.guess import USUAL, Guess
from seap_export.pipeline.targets.targets import Targets
from validation.estimate import TokenEstimate

#: Pruned candidates that are made and evaluated for each task. Dense ones come on top, and a few that may come nearest
#: where none of them meets the targets.
MOST_EVALUATIONS, _NEAREST = 6, 3
#: A candidate is not made if its predicted KL is above this many times the best one's.
_HOPELESS = 1.5
#: With --max-kl, pruning aims at this share of what rounding leaves of it, since KL is predicted roughly.
_AIM = 0.97
#: A candidate must promise to be better than the best one of its kind by this share: smaller, or nearer.
_WORTH = 0.015
#: Candidates with bits for each matrix that differ by less, in the ratio and in bits, are not told apart.
_NEAR_RATIO, _NEAR_BITS = 0.05, 0.1
#: The least share of a KL that is taken for its error.
_ERROR = 0.03

#: Makes a candidate and measures it; None: it cannot be made or run.
Evaluate = Callable[[Candidate], Point | None]
#: Times a candidate beside the dense model.
Time = Callable[[Candidate], Times]


@dataclass(frozen=True)
class SearchResult:
    """The end of a search.

    Attributes:
        soonest_ms: Milliseconds to the first token that every candidate is predicted to take at least; None: no target
            asks for it, or the search goes on.
    """

    chosen: Point | None
    points: tuple[Point, ...]
    soonest_ms: float | None = None
    smallest_bytes: int | None = None


def search(
    ways: Sequence[Candidate],
    targets: Targets,
    predictor: Predictor,
    evaluate: Evaluate,
    time: Time,
    keep: Callable[[Point], None] = lambda best: None,
    guess: Callable[[], Guess] = lambda: USUAL,
) -> SearchResult:
    """Finds the candidate with the least KL that meets the targets, or with `max_kl` the smallest.

    The dense model is evaluated in every way that could be chosen, or that nothing else tells of. Only with a target
    for the speed does the choice depend on a clock.

    Args:
        guess: Guesses what pruning and rounding cost; called once, before a candidate with bits for each matrix.
    """
    running = _Search(targets, predictor, evaluate, time, keep, guess)
    for way in running.begin(ways):
        running.try_one(way)
    for _ in range(MOST_EVALUATIONS):
        proposed = running.proposal()
        if proposed is None:
            break
        running.try_one(proposed)
    for _ in range(_NEAREST if running.best is None else 0):
        nearest = running.nearest()
        if nearest is None:
            break
        running.try_one(nearest)
    points, least = tuple(running.points.values()), predictor.smallest_bytes(ways)
    return SearchResult(running.best, points, predictor.soonest_ms(ways), least)


def first_tried(ways: Sequence[Candidate], targets: Targets, predictor: Predictor) -> list[Candidate]:
    """The first candidates of `search` if predictions hold: the whole models, and the first pruned or mixed one."""

    def evaluate(way: Candidate) -> Point:
        size, kl = predictor.bytes(way), USUAL.of_rounding(8.0 * way.format.arithmetic.weight_bytes)
        figures = CandidateFigures(size, TokenEstimate.of_texts([np.array([kl])]), 1.0, 1.0)
        return Point(way, figures, None, size, predictor.ideal_speedup(way))

    def time(way: Candidate) -> Times:
        prompt = None if targets.first_token is None else predictor.prompt_time(way)
        return Times(predictor.ideal_speedup(way), None, prompt)

    running = _Search(targets, predictor, evaluate, time, lambda best: None, lambda: USUAL)
    whole = running.begin(ways)
    for way in whole:
        running.try_one(way)
    proposed = running.proposal()
    return whole if proposed is None else [*whole, proposed]


class _Search:
    def __init__(
        self,
        targets: Targets,
        predictor: Predictor,
        evaluate: Evaluate,
        time: Time,
        keep: Callable[[Point], None],
        guess: Callable[[], Guess],
    ) -> None:
        self._targets, self._predictor, self._guess = targets, predictor, cache(guess)
        self._evaluate, self._time, self._keep = evaluate, time, keep
        self.points: dict[Candidate, Point] = {}
        self.best: Point | None = None
        self._refused = set[Candidate]()
        self._mixed = list[Candidate]()

    def begin(self, ways: Sequence[Candidate]) -> list[Candidate]:
        """The dense models to evaluate first: those of all ways, but of none with bits for each matrix.

        One that cannot be chosen is not made where bits for each matrix have all that it could be.
        """
        self._mixed = [way.way for way in ways if way.format.average is not None]
        uniform = [way for way in ways if way.format.average is None]
        return [way for way in uniform if not _is_idle(way, ways, self._predictor, self._targets)]

    def try_one(self, candidate: Candidate) -> None:
        """Has a candidate evaluated, and timed where that matters."""
        point = self._evaluate(candidate)
        if point is None:
            self._refused.add(candidate.way)
            return
        self._predictor.learn_bytes(candidate, point.figures.bytes)
        # What the dense model reaches says how far predictions are to be trusted.
        if self._targets.of_speed and (not candidate.ratio or self._improves(point)):
            times = self._time(candidate)
            point = point.timed(times)
            self._predictor.learn_times(candidate, times)
        self.points[candidate] = point
        if self._improves(point) and self._is_fast(point):
            self.best = point
            self._keep(point)

    def _improves(self, point: Point) -> bool:
        meets = self._targets.allow(point.figures.bytes, point.figures.kl.mean)
        return meets and (self.best is None or self._rank(point) < self._rank(self.best))

    def _is_fast(self, point: Point) -> bool:
        if not self._targets.of_speed:
            return True
        margins = {} if point.speedup is None else self._targets.margins(point.speedup, point.prompt)
        return margins.keys() == {*self._targets.of_speed} and min(margins.values()) >= 1.0

    def _rank(self, point: Point) -> tuple[float, float, str]:
        """The key that candidates are compared by, lower is better: size if KL has a limit, else KL."""
        size, kl = point.figures.bytes, point.figures.kl.mean
        return (*((size, kl) if self._targets.max_kl is not None else (kl, size)), point.candidate.label)

    @property
    def _ways(self) -> list[Candidate]:
        """The ways whose dense model could be made and run, and those with bits for each matrix."""
        made = [way for way in self.points if way.way == way and way.format.average is None]
        mixed = [way for way in self._mixed if way not in self._refused]
        return [
            way for way in made if way not in self._refused and not any(_includes(one, way) for one in mixed)
        ] + mixed

    @property
    def _curve(self) -> KlCurve:
        return KlCurve(list(self.points.values()), self._guess() if self._mixed else USUAL)

    def proposal(self) -> Candidate | None:
        """The most promising candidate that was not tried; None: none is worth it."""
        curve = self._curve
        candidates = [self._pruned(way, curve) for way in self._ways]
        worth = [candidate for candidate in candidates if candidate is not None and self._is_worth(candidate, curve)]
        return min(worth, key=lambda candidate: self._promise(candidate, curve), default=None)

    def nearest(self) -> Candidate | None:
        """The candidate with the least predicted KL of those that meet the other targets; None: none is left."""
        curve = self._curve
        uniform = [way for way in self._ways if way.format.average is None]
        ratios = {way: self._predictor.least_ratio(way, self._targets) for way in uniform}
        candidates = [replace(way, ratio=ratio) for way, ratio in ratios.items() if ratio is not None]
        candidates += [candidate for way in self._mixed for candidate in self._mixed_of(way, curve, math.inf)]
        nearest = min(candidates, key=lambda candidate: (curve.at(candidate), candidate.label), default=None)
        return None if nearest in self.points else nearest

    def _pruned(self, way: Candidate, curve: KlCurve) -> Candidate | None:
        """The best candidate of a way, by prediction; None: it was tried, or there is none."""
        limit = self._targets.max_kl
        if way.format.average is not None:
            return self._best_mixed(way, curve)
        least = self._predictor.least_ratio(way, self._targets)
        if least is None or (limit is not None and curve.dense(way) > limit):
            return None
        ratio = least if limit is None else self._largest(way, least, limit, curve)
        pruned = None if ratio is None else replace(way, ratio=ratio)
        return None if pruned in self.points else pruned

    def _best_mixed(self, way: Candidate, curve: KlCurve) -> Candidate | None:
        """The most promising candidate with bits for each matrix."""
        limit = self._targets.max_kl
        candidates = self._mixed_of(way, curve, math.inf if limit is None else _AIM * limit)
        return min(candidates, key=lambda one: self._promise(one, curve), default=None)

    def _mixed_of(self, way: Candidate, curve: KlCurve, most: float) -> list[Candidate]:
        """The candidates with bits for each matrix, with about this KL at most, that differ from those that fit."""
        size = self._targets.size
        tried = [
            candidate
            for candidate, point in self.points.items()
            if candidate.way == way and (size is None or point.figures.bytes <= size)
        ]
        return [
            candidate
            for candidate in self._predictor.mixed(way, self._targets)
            if curve.at(candidate) <= most
            and candidate not in self.points
            and not any(_is_near(candidate, other) for other in tried)
        ]

    def _largest(self, way: Candidate, least: float, limit: float, curve: KlCurve) -> float | None:
        """The largest ratio from `least` on whose KL is predicted to stay below the limit; None: all were tried."""
        points = [point for point in self.points.values() if point.candidate.way == way]
        good = max((point.candidate.ratio for point in points if point.figures.kl.mean <= limit), default=0.0)
        bad = min((point.candidate.ratio for point in points if point.figures.kl.mean > limit), default=1.0)
        if bad <= least:
            return None
        step = 10**-RATIO_DIGITS
        aim = curve.dense(way) + _AIM * (limit - curve.dense(way))
        wanted = max(curve.ratio(way, aim), least, good + step)
        ratio = round(min(wanted, bad - step, self._predictor.ratios[-1]), RATIO_DIGITS)
        tried = [point.candidate for point in points]
        while ratio > good and any(self._predictor.are_alike(replace(way, ratio=ratio), other) for other in tried):
            ratio = round(ratio - step, RATIO_DIGITS)  # coarse shapes: the same model again
        return ratio if ratio > good and ratio >= least else None

    def _is_worth(self, candidate: Candidate, curve: KlCurve) -> bool:
        if self.best is None:
            return True
        if self._targets.max_kl is not None:
            return self._predictor.bytes(candidate) < self.best.figures.bytes * (1.0 - _WORTH)
        if candidate.format.average is not None:
            best = self.best.figures.kl
            error = max(_ERROR * best.mean, best.stderr or 0.0)
            return curve.least(candidate) < best.mean - error
        best_kl, best_candidate = self.best.figures.kl.mean, self.best.candidate
        if candidate.way == best_candidate.way and candidate.ratio < best_candidate.ratio:
            return curve.at(candidate) < best_kl * (1.0 - _WORTH)
        return curve.dense(candidate) < best_kl and curve.at(candidate) < _HOPELESS * best_kl

    def _promise(self, candidate: Candidate, curve: KlCurve) -> tuple[bool, float, str]:
        """The sorting key of proposals: those predicted to meet the limit of KL first, by size; others by KL."""
        limit, kl = self._targets.max_kl, curve.at(candidate)
        fails = limit is not None and kl > limit
        value = float(self._predictor.bytes(candidate)) if limit is not None and not fails else kl
        return fails, value, candidate.label


def _is_idle(way: Candidate, ways: Iterable[Candidate], predictor: Predictor, targets: Targets) -> bool:
    """Whether the whole model in a way is too large, and bits for each matrix have all that the way could be.

    If speeds are asked for, it tells how far predictions are to be trusted.
    """
    is_included = any(_includes(other, way) for other in ways)
    return is_included and not targets.of_speed and not predictor.meets(way, targets)


def is_exact(candidate: Candidate, bytes: float, targets: Targets) -> bool:
    """Whether it is the whole model with all tokens, unquantised and too large: it loses nothing, and is not made."""
    too_large = targets.size is not None and bytes > targets.size
    is_whole = not candidate.ratio and candidate.vocabulary == "all"
    return too_large and is_whole and candidate.format.arithmetic.quantization is None


def _includes(mixed: Candidate, way: Candidate) -> bool:
    """Whether a way with bits for each matrix has all that another one could be: the same bits for all."""
    is_alike = (mixed.format.name, mixed.vocabulary) == (way.format.name, way.vocabulary)
    grid = way.format.arithmetic.quantization
    return mixed.format.average is not None and is_alike and grid is not None and not grid.rows


def _is_near(one: Candidate, other: Candidate) -> bool:
    bits = abs((one.format.average or 0.0) - (other.format.average or 0.0))
    return abs(one.ratio - other.ratio) < _NEAR_RATIO - 1e-9 and bits < _NEAR_BITS
