"""The search, in a made-up world whose best candidate is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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
    """Sizes, divergences and speeds by formula; the predictions of sizes are wrong by a share.

    Attributes:
        error: True size over predicted size, less 1.
        power: With which KL grows.
        slowness: Share of the ideal speed-up that pruned models reach.
        guessed: By which factors the guesses of rounding and of pruning are wrong.
    """

    error: float = 0.0
    power: float = 1.4
    ways: Sequence[Candidate] = WAYS
    slowness: float = 1.0
    mixed: float = 0.03
    guessed: tuple[float, float] = (1.0, 1.0)
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

    def best(self, targets: Targets, way: Candidate, objective: str) -> list[float]:
        """The least of an objective over all ratios of a way that meet the targets."""
        objectives = []
        for ratio in RATIOS:
            candidate = replace(way, ratio=ratio)
            fast = targets.decode_speedup is None or self.speed(candidate) >= targets.decode_speedup
            if fast and targets.allow(self.size(candidate), self.kl(candidate)):
                objectives.append(float(getattr(self, objective)(candidate)))
        return objectives


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
            if min(margins.values(), default=1.0) >= 1.0 and (
                targets.size is None or self.bytes(candidate) <= targets.size
            ):
                return ratio
        return None


def chosen_of(result: SearchResult) -> Candidate:
    assert result.chosen is not None
    return result.chosen.candidate


@pytest.mark.parametrize(
    "size", [45_000_000, 54_000_000, 72_000_000, 94_000_000, 140_000_000, 300_000_000, 600_000_000]
)
def test_with_a_size_the_choice_has_the_least_kl_of_all(size: int) -> None:
    world, targets = World(), Targets(size=size)
    chosen = chosen_of(world.search(size=size))
    assert world.size(chosen) <= size
    least = min(value for way in WAYS for value in world.best(targets, way, "kl"))
    assert world.kl(chosen) == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize("guessed", [(1.5, 1.1), (0.8, 1.2)])
@pytest.mark.parametrize("power", [1.1, 2.5])
@pytest.mark.parametrize("size", [45_000_000, 54_000_000, 64_000_000, 78_000_000])
def test_bits_and_ratio_are_chosen_together(size: int, power: float, guessed: tuple[float, float]) -> None:
    world, targets = World(ways=MORE_WAYS, power=power, guessed=guessed), Targets(size=size)
    chosen = chosen_of(world.search(size=size))
    assert world.size(chosen) <= size
    assert chosen.format.average is not None
    predicted = Predicted(world)
    least = min(world.kl(candidate) for candidate in predicted.mixed(MORE_WAYS[-1], targets))
    assert world.kl(chosen) <= 1.1 * least
    uniform = World(power=power)
    assert world.kl(chosen) < uniform.kl(chosen_of(uniform.search(size=size)))
    tried = [candidate for candidate in world.evaluated if candidate.format.average is not None]
    assert len(tried) <= 2
    rounded = [candidate for candidate in world.evaluated if candidate.format.precision in ("int8", "int4")]
    assert all(world.size(candidate) <= size for candidate in rounded)  # what cannot be chosen is not made
    for one, other in itertools.combinations(tried, 2):  # none is made that is told from another by chance alone
        bits = abs((one.format.average or 0.0) - (other.format.average or 0.0))
        assert abs(one.ratio - other.ratio) >= 0.049 or bits >= 0.1
    pruned = [candidate for candidate in world.evaluated if candidate.ratio and candidate.format.average is None]
    assert all(candidate.format.arithmetic.quantization is None for candidate in pruned)


@pytest.mark.parametrize("max_kl", [0.05, 0.1, 0.3, 0.6])
def test_bits_and_ratio_under_a_limit_of_kl(max_kl: float) -> None:
    world = World(ways=MORE_WAYS)
    chosen = chosen_of(world.search(max_kl=max_kl))
    assert world.kl(chosen) <= max_kl
    uniform = World()
    assert world.size(chosen) <= uniform.size(chosen_of(uniform.search(max_kl=max_kl)))
    predicted = Predicted(world)
    small = [one for one in predicted.mixed(MORE_WAYS[-1], Targets(max_kl=max_kl)) if world.kl(one) <= max_kl]
    assert world.size(chosen) <= 1.1 * min(map(world.size, small))
    pruned = [candidate for candidate in world.evaluated if candidate.ratio and candidate.format.average is None]
    assert all(candidate.format.arithmetic.quantization is None for candidate in pruned)


@pytest.mark.parametrize("power", [0.8, 1.4, 2.5])
@pytest.mark.parametrize("max_kl", [0.05, 0.1, 0.3, 0.45, 0.6, 0.8])
def test_with_a_limit_of_kl_the_choice_is_about_the_smallest(max_kl: float, power: float) -> None:
    world, targets = World(power=power), Targets(max_kl=max_kl)
    chosen = chosen_of(world.search(max_kl=max_kl))
    assert world.kl(chosen) <= max_kl
    smallest = min(value for way in WAYS for value in world.best(targets, way, "size"))
    assert world.size(chosen) <= 1.05 * smallest


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
    assert (
        len([candidate for candidate in world.evaluated if candidate.ratio and candidate.way == chosen_of(result).way])
        == 2
    )


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
        ({"size": 54_000_000, "max_kl": 0.3}, QualityFailure, ("--max-kl", "onnx int4", "comes nearest", "54 MB")),
        ({"size": 10_000_000}, UsageError, ("--target-size", "t-0 in onnx int4", "71.7 MB", "about 16.8 MB")),
        ({"decode_speedup": 100.0}, SpeedFailure, ("--target-decode-speedup", "comes nearest", "speed-up 7.1")),
        (
            {"first_token": FirstToken(512, ms=10.0)},
            SpeedFailure,
            ("target_first_token", "first token of a prompt of 512 within 10 ms", "after 1e+03 ms", "about 20 ms"),
        ),
    ],
)
def test_where_nothing_fits_the_nearest_is_named(
    targets: dict[str, Any], error: type[Exception], words: tuple[str, ...]
) -> None:
    result = World().search(**targets)
    assert result.chosen is None
    failure = nothing_fits(
        Targets(**targets), {"t": Frontier(result.points, None, result.soonest_ms, result.smallest_bytes)}
    )
    assert type(failure) is error
    assert [word for word in words if word not in str(failure)] == []
    assert "\n" not in str(failure)
    assert ("or another target" in str(failure)) is (len(targets) > 1)


def _point(kl: float, speedup: float) -> Point:
    """With a standard error of 1/64 of a nat, and an interval from 0.1 below to 0.1 above the speed-up."""
    figures = CandidateFigures(50, kl_estimate(kl, 2**-6), 0.9, 7.0, lost_kl=kl / 4)
    interval = Interval(speedup - 0.1, speedup + 0.1)
    prompt = PromptTime(250.0, 2.0, Interval(240.0, 270.0), Interval(1.9, 2.1))
    return Point(WAYS[3], figures, "key", 50, speedup, speedup, interval, prompt)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        ({"max_kl": 0.140625}, [("KL 0.125 is within --max-kl 0.140625", "about 6 more held-out texts would tell")]),
        ({"decode_speedup": 1.5}, []),
        ({"first_token": FirstToken(512, speedup=1.8)}, []),
        ({"first_token": FirstToken(512, ms=260.0)}, [("first token after 250 ms (2.00 times", "too close to tell")]),
        (
            {"decode_speedup": 1.75},
            [("decode speed-up 1.80 (1.70 to 1.90)", "too close to tell", "seap-export bench")],
        ),
    ],
)
def test_what_barely_meets_a_target_is_said(targets: dict[str, Any], words: list[tuple[str, ...]]) -> None:
    point = _point(0.125, 1.8)
    lines = list(close_calls(Targets(**targets), {"t": Frontier((point,), point.candidate)}))
    assert len(lines) == len(words)
    assert all(word in line for line, expected in zip(lines, words, strict=True) for word in ("t-0 in", *expected))
    assert list(close_calls(Targets(**targets), {"t": Frontier((point,), None)})) == []
