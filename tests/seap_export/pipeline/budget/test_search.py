"""The search, in a made-up world whose best candidate is known."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from support.estimates import kl_estimate
from support.product import (
    Candidate,
    CandidateFigures,
    FirstToken,
    Frontier,
    Guess,
    Interval,
    OnnxFormat,
    Point,
    PromptTime,
    Targets,
    Times,
    ways,
)

from seap_export.errors import QualityFailure, SpeedFailure, UsageError
from seap_export.pipeline.budget.failure import close_calls, nothing_fits
from seap_export.pipeline.budget.search import MOST_EVALUATIONS, SearchResult, search

BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.06, "int4": 0.56, "w8a8": 1.06, "w4a8": 0.56}
ROUNDING = {"fp32": 0.0, "fp16": 1e-6, "int8": 0.004, "int4": 0.39, "w8a8": 0.01, "w4a8": 0.45}
WAYS = ways([OnnxFormat(name) for name in ("fp32", "fp16", "int8", "int4")], "all")
#: With products of integers.
FAST_WAYS = ways([OnnxFormat(name) for name in BYTES], "all")
#: With bits for each matrix as one more way.
MORE_WAYS = ways([*(way.format for way in WAYS), OnnxFormat("mixed-4.5")], "all")
WEIGHTS, OUTER = 100_000_000, 28_000_000
RATIOS = tuple(round(step / 1000, 3) for step in range(981))


@dataclass
class World:
    """Sizes, divergences and speeds by formula."""

    error: float = 0.0  # true size over predicted size, less 1
    power: float = 1.4  # with which KL grows
    ways: Sequence[Candidate] = WAYS
    slowness: float = 1.0  # share of the ideal speed-up that pruned models reach
    mixed: float = 0.03
    guessed: tuple[float, float] = (1.0, 1.0)  # by which factors the guesses of rounding and of pruning are wrong
    evaluated: list[Candidate] = field(default_factory=list)
    kept: list[Candidate] = field(default_factory=list)

    def size(self, candidate: Candidate) -> int:
        average = candidate.format.average
        of_one = BYTES[candidate.format.precision] if average is None else average / 8
        return round(of_one * ((1 - candidate.ratio) * WEIGHTS + OUTER))

    def kl(self, candidate: Candidate) -> float:
        average = candidate.format.average
        uniform = ROUNDING if self.ways is WAYS else ROUNDING | {"int4": 0.8 * self.mixed}
        rounding = uniform[candidate.format.precision] if average is None else self.mixed * 3.5 ** (4.5 - average)
        return rounding + 0.95 * candidate.ratio**self.power

    def ideal(self, candidate: Candidate) -> float:
        return self.size(WAYS[0]) / self.size(candidate)

    def speed(self, candidate: Candidate) -> float:
        return self.ideal(candidate) * (self.slowness if candidate.ratio else 1.0)

    def prompt(self, candidate: Candidate) -> PromptTime:
        """A second for the dense model in fp32, half of it with products of integers."""
        ms = (1.0 - candidate.ratio) * (500.0 if candidate.format.precision.startswith("w") else 1000.0)
        return PromptTime(ms / (self.slowness if candidate.ratio else 1.0), 1000.0 / ms)

    def guess(self) -> Guess:
        rounding, pruning = self.guessed
        bits = [(average, rounding * self.mixed * 3.5 ** (4.5 - average)) for average in (2.25, 4.5, 8.25)]
        return Guess(tuple(bits), tuple((ratio, pruning * 0.95 * ratio**self.power) for ratio in (0.1, 0.3)))

    def evaluate(self, candidate: Candidate) -> Point:
        self.evaluated.append(candidate)
        size = round(self.size(candidate) * (1 + (self.error if candidate.ratio else 0.0)))
        figures = CandidateFigures(size, kl_estimate(self.kl(candidate)), 1 - self.kl(candidate) / 4, 7.0)
        return Point(
            candidate, figures, f"{candidate.label} {candidate.ratio}", self.size(candidate), self.ideal(candidate)
        )

    def search(self, **targets: Any) -> SearchResult:
        result = search(
            self.ways,
            Targets(**targets),
            Predicted(self),  # type: ignore[arg-type]
            self.evaluate,
            lambda candidate: Times(self.speed(candidate), None, self.prompt(candidate)),
            lambda point: self.kept.append(point.candidate),
            self.guess,
        )
        most = MOST_EVALUATIONS + (0 if result.chosen else 3)
        assert len([candidate for candidate in self.evaluated if candidate.ratio]) <= most
        assert len(self.evaluated) == len(set(self.evaluated))
        return result


class Predicted:
    """Stands for `Predictor` without a model."""

    ratios = RATIOS

    def __init__(self, world: World) -> None:
        self._world = world
        self._factors: dict[Candidate, float] = {}
        self._sizes: dict[Candidate, int] = {}
        self._shares: dict[Candidate, float] = {}
        self._paces: dict[Candidate, float] = {}

    def bytes(self, candidate: Candidate) -> int:
        return self._sizes.get(candidate, round(self._world.size(candidate) * self._factors.get(candidate.way, 1.0)))

    def learn_bytes(self, candidate: Candidate, measured: int) -> None:
        self._sizes[candidate] = measured
        self._factors[candidate.way] = measured / self._world.size(candidate)

    def learn_times(self, candidate: Candidate, times: Times) -> None:
        self._shares[candidate.way] = times.speedup / self._world.ideal(candidate)
        assert times.prompt is not None
        self._paces[candidate.way] = times.prompt.ms / (1.0 - candidate.ratio)

    def smallest_bytes(self, ways: Sequence[Candidate]) -> int:
        return min(self.bytes(replace(way.smallest, ratio=RATIOS[-1])) for way in ways)

    def soonest_ms(self, ways: Sequence[Candidate]) -> float | None:
        return 20.0 * min(self._paces.values(), default=1.0) / 1000.0

    def speedup(self, candidate: Candidate) -> float:
        return self._world.ideal(candidate) * self._shares.get(candidate.way, 1.0)

    def meets(self, candidate: Candidate, targets: Targets) -> bool:
        return targets.size is None or self.bytes(candidate) <= targets.size

    def are_alike(self, one: Candidate, other: Candidate) -> bool:
        return one == other

    def mixed(self, way: Candidate, targets: Targets) -> Iterator[Candidate]:
        for ratio in (round(step / 20, 3) for step in range(19)):
            whole = ((1 - ratio) * WEIGHTS + OUTER) * self._factors.get(way.way, 1.0)
            most = 4.5 if targets.size is None else int(8000 * targets.size / whole) / 1000
            for average in [most] if targets.size is not None else [quarter / 4 for quarter in range(9, 19)]:
                format = way.format.mixed(min(average, 8.25)) if average >= 2.25 else None
                if format is not None:
                    candidate = replace(way, ratio=ratio, format=format)
                    if self.speedup(candidate) >= (targets.decode_speedup or 0.0):
                        yield candidate

    def least_ratio(self, way: Candidate, targets: Targets) -> float | None:
        for ratio in RATIOS:
            candidate = replace(way, ratio=ratio)
            ms = self._paces.get(way.way, 1000.0) * (1.0 - ratio) or 1e-9
            margins = targets.margins(self.speedup(candidate), PromptTime(ms, 1000.0 / ms))
            if min(margins.values(), default=1.0) >= 1.0 and self.meets(candidate, targets):
                return ratio
        return None


def chosen_of(result: SearchResult) -> Candidate:
    assert result.chosen is not None
    return result.chosen.candidate


def best(world: World, candidates: Iterable[Candidate], targets: Targets, objective: str) -> float:
    """The least of an objective over the candidates that meet the targets."""
    allowed = [one for one in candidates if targets.allow(world.size(one), world.kl(one))]
    return float(min(getattr(world, objective)(one) for one in allowed))


@pytest.mark.parametrize(
    ("targets", "power"),
    [(Targets(size=size * 1_000_000), 1.4) for size in (45, 54, 72, 94, 140, 300, 600)]
    + [(Targets(max_kl=kl), power) for kl in (0.05, 0.1, 0.3, 0.45, 0.6, 0.8) for power in (0.8, 1.4, 2.5)],
)
def test_the_choice_is_the_nearest_within_a_size_and_about_the_smallest_within_a_kl(
    targets: Targets, power: float
) -> None:
    world = World(power=power)
    chosen = chosen_of(world.search(size=targets.size, max_kl=targets.max_kl))
    assert targets.allow(world.size(chosen), world.kl(chosen))
    every = [replace(way, ratio=ratio) for way in WAYS for ratio in RATIOS]
    if targets.size:
        assert world.kl(chosen) == pytest.approx(best(world, every, targets, "kl"), abs=1e-9)
    else:
        assert world.size(chosen) <= 1.05 * best(world, every, targets, "size")


@pytest.mark.parametrize(
    ("targets", "power", "guessed"),
    [
        (Targets(size=size * 1_000_000), power, guessed)
        for size in (45, 54, 64, 78) for power in (1.1, 2.5) for guessed in ((1.5, 1.1), (0.8, 1.2))
    ]
    + [(Targets(max_kl=max_kl), 1.4, (1.0, 1.0)) for max_kl in (0.05, 0.1, 0.3, 0.6)],
)  # fmt: skip
def test_bits_and_ratio_are_chosen_together(targets: Targets, power: float, guessed: tuple[float, float]) -> None:
    world = World(ways=MORE_WAYS, power=power, guessed=guessed)
    asked = {"size": targets.size, "max_kl": targets.max_kl}
    chosen, without = chosen_of(world.search(**asked)), chosen_of(World(power=power).search(**asked))
    assert targets.allow(world.size(chosen), world.kl(chosen))
    objective = "kl" if targets.size else "size"
    mixed = Predicted(world).mixed(MORE_WAYS[-1], targets)
    assert getattr(world, objective)(chosen) <= 1.1 * best(world, mixed, targets, objective)
    assert getattr(world, objective)(chosen) <= getattr(World(power=power), objective)(without)
    pruned = [candidate for candidate in world.evaluated if candidate.ratio and candidate.format.average is None]
    assert all(candidate.format.arithmetic.quantization is None for candidate in pruned)
    if targets.size:
        tried = [candidate for candidate in world.evaluated if candidate.format.average is not None]
        assert len(tried) <= 2
        rounded = [candidate for candidate in world.evaluated if candidate.format.precision in ("int8", "int4")]
        assert all(world.size(candidate) <= targets.size for candidate in rounded)  # what cannot be chosen is not made
        for one, other in itertools.combinations(tried, 2):  # none is made that is told from another by chance alone
            bits = abs((one.format.average or 0.0) - (other.format.average or 0.0))
            assert abs(one.ratio - other.ratio) >= 0.049 or bits >= 0.1


def test_the_dense_model_is_chosen_where_it_meets_the_targets() -> None:
    world = World()
    assert chosen_of(world.search(size=160_000_000)) == WAYS[2]
    assert not [candidate for candidate in world.evaluated if candidate.ratio and candidate.format.precision == "int4"]
    assert chosen_of(World().search(max_kl=0.002)).format.precision == "fp16"
    assert chosen_of(World().search(decode_speedup=1.9)) == WAYS[1]


def test_a_size_that_was_predicted_too_low_is_corrected() -> None:
    world = World(error=0.02)
    result = world.search(size=54_000_000)
    assert result.chosen is not None
    assert 0.98 * 54_000_000 < result.chosen.figures.bytes <= 54_000_000
    way = chosen_of(result).way
    assert len([candidate for candidate in world.evaluated if candidate.ratio and candidate.way == way]) == 2


def test_a_speed_that_falls_short_is_tried_again_with_a_larger_ratio() -> None:
    world = World(slowness=0.85)
    result = world.search(decode_speedup=4.5)
    chosen = chosen_of(result)
    assert world.speed(chosen) >= 4.5
    others = [point for point in result.points if point.candidate.format == chosen.format and point.candidate.ratio]
    assert min(point.candidate.ratio for point in others) < chosen.ratio
    assert all(point.speedup is None or point.speedup == world.speed(point.candidate) for point in result.points)


@pytest.mark.parametrize(
    ("target", "precision"), [("512:1000ms", "fp32"), ("512:0.5s", "w8a8"), ("512:2x", "w8a8"), ("512:400ms", "w8a8")]
)
def test_the_nearest_whose_first_token_is_soon_enough(target: str, precision: str) -> None:
    world = World(ways=FAST_WAYS)
    chosen = chosen_of(world.search(first_token=FirstToken.parse(target)))
    assert chosen.format.precision == precision
    assert chosen.ratio == (0.2 if target == "512:400ms" else 0.0)


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        ({"size": 54_000_000, "max_kl": 0.3}, QualityFailure, "onnx int4 comes nearest: 54 MB.*--max-kl or another"),
        ({"size": 10_000_000}, UsageError, "t-0 in onnx int4 .* 71.7 MB.*--target-size; .* about 16.8 MB"),
        ({"decode_speedup": 100.0}, SpeedFailure, "comes nearest.* speed-up 7.1.*--target-decode-speedup$"),
        (
            {"first_token": FirstToken(512, ms=10.0)},
            SpeedFailure,
            "after 1e.03 ms.*target_first_token; .* about 20 ms",
        ),
    ],
)
def test_where_nothing_fits_the_nearest_is_named(targets: dict[str, Any], error: type[Exception], words: str) -> None:
    result = World().search(**targets)
    assert result.chosen is None
    frontier = Frontier(result.points, None, result.soonest_ms, result.smallest_bytes)
    with pytest.raises(error, match=words):
        raise nothing_fits(Targets(**targets), {"t": frontier})


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({"max_kl": 0.140625}, ["KL 0.125 is within --max-kl 0.140625.* about 6 more held-out texts would tell"]),
        ({"decode_speedup": 1.5}, []),
        ({"decode_speedup": 1.75}, [r"decode speed-up 1.80 \(1.70 to 1.90\).*too close to tell"]),
        ({"first_token": FirstToken(512, speedup=1.8)}, []),
        ({"first_token": FirstToken(512, ms=260.0)}, [r"first token after 250 ms \(2.00 times.*too close to tell"]),
    ],
)
def test_what_barely_meets_a_target_is_said(targets: dict[str, Any], words: list[str]) -> None:
    """Of a KL with a standard error of 1/64 of a nat."""
    figures = CandidateFigures(50, kl_estimate(0.125, 2**-6), 0.9, 7.0, lost_kl=0.03)
    prompt = PromptTime(250.0, 2.0, Interval(240.0, 270.0), Interval(1.9, 2.1))
    point = Point(WAYS[3], figures, "key", 50, 1.8, 1.8, Interval(1.7, 1.9), prompt)
    lines = list(close_calls(Targets(**targets), {"t": Frontier((point,), point.candidate)}))
    assert [re.search(word, line) is not None for word, line in zip(words, lines, strict=True)] == [True] * len(words)
    assert list(close_calls(Targets(**targets), {"t": Frontier((point,), None)})) == []
