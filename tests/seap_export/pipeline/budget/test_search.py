"""Sizes, times and the KL of candidates, and the search, in a made-up world whose best candidate is known."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
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
from support.variations import micro_config

from seap_export.errors import QualityFailure, SpeedFailure, UsageError
from seap_export.model.families import ModelSpec, model_spec
from seap_export.pipeline.budget.curve import KlCurve
from seap_export.pipeline.budget.failure import nothing_fits
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.prompts import Prompts
from seap_export.pipeline.budget.search import MOST_EVALUATIONS, SearchResult, search
from seap_export.pipeline.targets import frontier
from seap_export.pipeline.targets.guess import USUAL
from validation.reports import schema

ROUNDING = {"fp32": 0.0, "fp16": 1e-6, "int8": 0.004, "int4": 0.39, "w8a8": 0.01, "w4a8": 0.45}
WAYS = ways([OnnxFormat(name) for name in ("fp32", "fp16", "int8", "int4")], "all")
FP32, _, INT8, INT4 = WAYS
#: With products of integers.
FAST_WAYS = ways([OnnxFormat(name) for name in ROUNDING], "all")
#: With bits for each matrix as one more way.
MORE_WAYS = ways([*(way.format for way in WAYS), OnnxFormat("mixed-4.5")], "all")
#: With 100 million weights of neurons, which are all that is pruned, and 29 million others.
SPEC = model_spec(
    micro_config(
        model_type="llama", vocab_size=4096, hidden_size=2048, num_hidden_layers=2, num_attention_heads=16,
        num_key_value_heads=4, head_dim=128, intermediate_size=8192, tie_word_embeddings=True,
    )
)  # fmt: skip


@cache
def shrunk(ratio: float) -> ModelSpec:
    width = round(8192 * (1 - ratio))
    return SPEC.with_layers(tuple(layer.changed(intermediate_size=width) for layer in SPEC.layers))


def predictor() -> Predictor:
    """In fp32 a prompt of 512 is expected to take about a second."""
    prompts = Prompts(512, 6.8e10)
    return Predictor(lambda one: shrunk(one.ratio), 0.98, OnnxFormat("fp32"), 128, lambda _: 1000, prompts)


#: Its predictions are what is measured, but for what a world says.
TRUTH = predictor()
size_of, ideal_of = cache(TRUTH.bytes), cache(TRUTH.ideal_speedup)


@dataclass
class World:
    """Divergences by formula, sizes and speeds as predicted or worse."""

    error: float = 0.0  # true size over predicted size, less 1
    power: float = 1.4  # with which KL grows
    ways: Sequence[Candidate] = WAYS
    slowness: float = 1.0  # share of the ideal speed-up that pruned models reach
    mixed: float = 0.03
    guessed: tuple[float, float] = (1.0, 1.0)  # by which factors the guesses of rounding and of pruning are wrong
    evaluated: list[Candidate] = field(default_factory=list)

    def size(self, candidate: Candidate) -> int:
        return round(size_of(candidate) * (1 + (self.error if candidate.ratio else 0.0)))

    def kl(self, candidate: Candidate) -> float:
        average = candidate.format.average
        uniform = ROUNDING if self.ways is WAYS else ROUNDING | {"int4": 0.8 * self.mixed}
        rounding = uniform[candidate.format.precision] if average is None else self.mixed * 3.5 ** (4.5 - average)
        return rounding + 0.95 * candidate.ratio**self.power

    def speed(self, candidate: Candidate) -> float:
        return ideal_of(candidate) * (self.slowness if candidate.ratio else 1.0)

    def guess(self) -> Guess:
        rounding, pruning = self.guessed
        bits = [(average, rounding * self.mixed * 3.5 ** (4.5 - average)) for average in (2.25, 4.5, 8.25)]
        return Guess(tuple(bits), tuple((ratio, pruning * 0.95 * ratio**self.power) for ratio in (0.1, 0.3)))

    def evaluate(self, candidate: Candidate) -> Point:
        self.evaluated.append(candidate)
        figures = CandidateFigures(self.size(candidate), kl_estimate(self.kl(candidate)), 1.0, 7.0)
        key = f"{candidate.label} {candidate.ratio}"
        return Point(candidate, figures, key, size_of(candidate), ideal_of(candidate))

    def search(self, **targets: Any) -> SearchResult:
        result = search(
            self.ways,
            Targets(**targets),
            predictor(),
            self.evaluate,
            lambda candidate: Times(self.speed(candidate), None, TRUTH.prompt_time(candidate)),
            lambda point: None,
            self.guess,
        )
        most = MOST_EVALUATIONS + (0 if result.chosen else 3)
        assert len([candidate for candidate in self.evaluated if candidate.ratio]) <= most
        assert len(self.evaluated) == len(set(self.evaluated))
        return result


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
    every = [replace(way, ratio=ratio) for way in WAYS for ratio in TRUTH.ratios]
    if targets.size:
        predicted = replace(targets, size=int(0.997 * targets.size))  # a predicted size has a margin
        assert world.kl(chosen) <= best(world, every, predicted, "kl") + 1e-9
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
    mixed = TRUTH.mixed(MORE_WAYS[-1], targets)
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
    ("target", "precision"),
    [("512:1s", "fp32"), ("512:0.6s", "w8a8"), ("512:1.8x", "w8a8"), ("512:400ms", "w8a8")],
)
def test_the_nearest_whose_first_token_is_soon_enough(target: str, precision: str) -> None:
    asked = FirstToken.parse(target)
    chosen = chosen_of(World(ways=FAST_WAYS).search(first_token=asked))
    assert chosen.format.precision == precision
    soon = [ratio for ratio in TRUTH.ratios if asked.margin(TRUTH.prompt_time(replace(chosen, ratio=ratio))) >= 1.0]
    assert chosen.ratio == soon[0]


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        ({"size": 54_000_000, "max_kl": 0.3}, QualityFailure, "onnx int4 comes nearest: 53.8 MB.*--max-kl or another"),
        ({"size": 10_000_000}, UsageError, "t-0 in onnx int4 .* 73.2 MB.*--target-size; .* about 17.8 MB"),
        ({"decode_speedup": 100.0}, SpeedFailure, "comes nearest.* speed-up 6.33.*--target-decode-speedup$"),
        ({"first_token": FirstToken(512, ms=10.0)}, SpeedFailure, "after 995 ms .*first_token; .* about 252 ms"),
    ],
)
def test_where_nothing_fits_the_nearest_is_named(targets: dict[str, Any], error: type[Exception], words: str) -> None:
    result = World().search(**targets)
    assert result.chosen is None
    found = Frontier(result.points, None, result.soonest_ms, result.smallest_bytes)
    with pytest.raises(error, match=words):
        raise nothing_fits(Targets(**targets), {"t": found})


HALF, PRUNED = replace(FP32, ratio=0.5), replace(INT8, ratio=0.5)


def test_sizes_and_speeds_follow_from_the_shapes_and_from_what_was_measured() -> None:
    predicted, fp32, int8 = predictor(), FP32.format, INT8.format
    difference = int8.size(shrunk(0.5)) - int8.size(SPEC)
    assert predicted.bytes(PRUNED) - predicted.bytes(INT8) == difference
    predicted.learn_bytes(INT8, 130_000_000)
    assert predicted.bytes(PRUNED) == 130_000_000 + difference
    assert predicted.bytes(HALF) == fp32.size(shrunk(0.5)) + 1000
    targets = Targets(size=predicted.bytes(replace(FP32, ratio=0.4)))
    ratio, most = predicted.least_ratio(FP32, targets), 0.997 * predicted.bytes(replace(FP32, ratio=0.4))
    assert ratio is not None
    assert predicted.bytes(replace(FP32, ratio=ratio)) <= most
    assert predicted.bytes(replace(FP32, ratio=round(ratio - 0.001, 3))) > most
    assert (predicted.least_ratio(INT8, targets), predicted.least_ratio(FP32, Targets(size=1))) == (0.0, None)
    predicted.learn_bytes(HALF, predicted.bytes(HALF) + 7)
    assert predicted.bytes(FP32) == fp32.size(SPEC) + 1000 + 7
    ideal = predicted.ideal_speedup(INT8)
    assert (predicted.ideal_speedup(FP32), 3.0 < ideal < 4.0) == (1.0, True)
    assert predicted.least_ratio(INT8, Targets(decode_speedup=ideal)) == 0.0
    predicted.learn_times(INT8, Times(ideal / 2))
    assert predicted.speedup(PRUNED) == pytest.approx(predicted.ideal_speedup(PRUNED) / 2)
    assert (predicted.least_ratio(INT8, Targets(decode_speedup=ideal)) or 0.0) > 0.5


def test_the_time_of_a_prompt_follows_from_its_products_and_from_what_was_timed() -> None:
    predicted = predictor()

    def ms(candidate: Candidate) -> float:
        return predicted.first_token_ms(candidate) or 0.0

    linear = 512 * sum(SPEC.prunable_weights(index) for index in range(len(SPEC.layers)))
    assert linear / 6.8e10 < ms(FP32) / 1e3 < 1.5 * linear / 6.8e10
    assert ms(FAST_WAYS[-2]) < ms(FP32) < ms(INT8)
    share = ms(PRUNED) / ms(INT8)
    predicted.learn_times(INT8, Times(1.0, None, PromptTime(80.0, 1.25)))
    assert (ms(INT8), ms(FP32), ms(PRUNED)) == pytest.approx((80.0, 100.0, 80.0 * share))
    assert ms(MORE_WAYS[-1]) == pytest.approx(80.0)  # as the slowest that works alike
    assert predicted.soonest_ms([FP32, INT8]) == pytest.approx(ms(replace(INT8, ratio=0.98)))
    wanted = (FirstToken(512, ms=80.0 * share), FirstToken(512, speedup=1.25), FirstToken(512, speedup=1.26))
    ratios = [predicted.least_ratio(INT8, Targets(first_token=each)) for each in wanted]
    assert ratios[:2] == pytest.approx([0.5, 0.0], abs=0.002)
    assert ratios[2]


#: A bit less costs four times as much, and 0.2 of the ratio four times as much as 0.1.
GUESS = Guess(((2.5, 0.64), (4.5, 0.04)), ((0.1, 0.02), (0.2, 0.08)))
MIXED = Candidate(0.0, OnnxFormat("mixed-3.5"))


def point(candidate: Candidate, kl: float, lost: float = 0.0) -> Point:
    return Point(candidate, CandidateFigures(50, kl_estimate(kl), 0.9, 7.0, lost_kl=lost), "key", 50, 2.0)


def test_what_rounding_and_pruning_cost_adds_up_and_is_corrected_by_what_was_measured_around() -> None:
    pruned = replace(MIXED, ratio=0.2)
    guessed = KlCurve([], GUESS)
    assert (guessed.at(MIXED), guessed.at(pruned)) == pytest.approx((0.16, 0.24))
    assert guessed.least(pruned) == pytest.approx(0.16 + 0.08 / 1.35)
    curve = KlCurve([point(INT4, 0.06), point(pruned, 0.24)], GUESS)  # half as much again, and as guessed
    assert curve.at(MIXED) == pytest.approx(1.5 * 0.16)
    assert curve.at(pruned) == pytest.approx(0.24)
    assert curve.at(replace(MIXED, ratio=0.1)) == pytest.approx(1.5**0.5 * 0.18)
    assert curve.at(replace(MIXED, ratio=0.4)) == pytest.approx(0.48)
    other = KlCurve([point(replace(INT4, vocabulary="auto"), 0.06), point(replace(INT4, ratio=0.2), 9.0)], GUESS)
    assert other.at(MIXED) == pytest.approx(0.16)  # they tell nothing of it


def test_what_dropped_tokens_lose_does_not_grow_with_the_rest() -> None:
    curve = KlCurve([point(INT4, 0.5 + 0.06, lost=0.5)], GUESS)
    assert curve.at(replace(MIXED, ratio=0.2)) == pytest.approx(0.5 + 1.5 * 0.24)
    of_int8 = KlCurve([point(INT8, 0.501, lost=0.5)], GUESS)
    assert of_int8.at(MIXED) == pytest.approx(0.5 + 0.16)


def test_the_interval_is_about_what_is_not_measured() -> None:
    """If pruning costs less than guessed, what was measured says that rounding costs more."""
    measured = replace(MIXED, ratio=0.1)
    curve = KlCurve([point(measured, 0.18)], GUESS)
    assert curve.least(measured) == pytest.approx(curve.at(measured))
    assert curve.least(replace(MIXED, ratio=0.2)) == pytest.approx(0.18 * (0.16 + 0.08 / 1.35) / (0.16 + 0.02 / 1.35))
    assert curve.least(MIXED) == pytest.approx(0.18 * 0.16 / (0.16 + 0.02 * 1.35))


def test_what_is_asked_of_the_first_token() -> None:
    texts = ("512:250ms", "512:0.25s", "1:2x", " 128:.5x ")
    expected = [FirstToken(512, ms=250.0), FirstToken(512, ms=250.0), FirstToken(1, speedup=2.0)]
    assert [FirstToken.parse(text) for text in texts] == [*expected, FirstToken(128, speedup=0.5)]
    for text in ("250ms", "512", "512:250", "0:250ms", "512:0x", "-1:2x"):
        with pytest.raises(UsageError, match=r"target_first_token.*512:250ms.*512:2x"):
            FirstToken.parse(text)


@pytest.mark.parametrize("given", [{"size": 0}, {"decode_speedup": 0.0}, {"max_kl": -1.0}, {"max_kl": float("nan")}])
def test_targets_out_of_range_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="out of range"):
        Targets(**given)


def test_the_margin_is_how_much_slower_it_might_be() -> None:
    prompt = PromptTime(200.0, 3.0, Interval(190.0, 260.0), Interval(2.5, 3.5))
    assert FirstToken(512, ms=250.0).margin(prompt) == 1.25
    assert FirstToken(512, speedup=2.0).margin(prompt) == 1.5
    assert not FirstToken(512, ms=250.0).surely(prompt)
    assert FirstToken(512, speedup=2.5).surely(prompt)
    assert FirstToken(512, ms=200.0).surely(PromptTime(200.0, 1.0))


OTHER_GUESS = Guess(((2.0, 0.64), (3.0, 0.16), (5.0, 0.01)), ((0.1, 0.02), (0.2, 0.08)))


def test_guesses_are_exponential_in_bits_and_a_power_of_the_ratio() -> None:
    """Between and beyond what is known."""
    bits, ratios = [1.0, 2.0, 2.5, 3.0, 4.0, 7.0], [0.0, 0.05, 0.1, 0.2, 0.4]
    assert [OTHER_GUESS.of_rounding(each) for each in bits] == pytest.approx([2.56, 0.64, 0.32, 0.16, 0.04, 0.000625])
    assert [OTHER_GUESS.of_pruning(each) for each in ratios] == pytest.approx([0.0, 0.005, 0.02, 0.08, 0.32])
    assert [USUAL.of_pruning(each) for each in (0.125, 0.5)] == pytest.approx([0.05, 0.4])
    assert Guess.read(OTHER_GUESS.to_json()) == OTHER_GUESS
    for values in ({"rounded": [[2.0, 0.1]], "pruned": [[0.1, 0.1]]}, {"rounded": [[2, 1], [3, 1]], "pruned": []}):
        with pytest.raises(ValueError, match="guess"):
            Guess.read(values)


def measured(way: Candidate, ratio: float, size: int, kl: float, key: str | None = None) -> Point:
    figures = CandidateFigures(size, kl_estimate(kl), 0.9, 7.5, lost_kl=kl / 2)
    return Point(replace(way, ratio=ratio), figures, key, size + 1, 2.0)


POINTS = (
    measured(INT8, 0.0, 150, 0.01, "one"),
    measured(INT4, 0.0, 90, 0.4, "two"),
    measured(INT8, 0.5, 95, 0.35, "three"),
    measured(INT4, 0.1, 88, 0.35, "four"),
    measured(FP32, 0.0, 500, 0.0),
)


def values() -> dict[str, Any]:
    return frontier.frontier_json(Targets(size=100), "onnx fp32", {"a": Frontier(POINTS, POINTS[3].candidate)})


def test_points_are_sorted_and_say_whether_they_are_beaten() -> None:
    rows = values()["tasks"]["a"]["points"]
    assert [row["bytes"] for row in rows] == [88, 90, 95, 150, 500]
    assert [row["beaten"] for row in rows] == [False, True, True, False, False]
    assert [row["variant"] for row in rows if row["chosen"]] == ["a-0.1"]
    assert rows[0]["kl_difference"] is None
    assert [row["kl_difference"] for row in rows[1:]] == pytest.approx([0.05, 0.0, -0.34, -0.35])


def test_equal_points_do_not_beat_each_other() -> None:
    assert not POINTS[0].beats(POINTS[0])
    assert POINTS[3].beats(POINTS[2])  # smaller and as near
    assert measured(INT8, 0.0, 150, 0.009).beats(POINTS[0])  # as small and nearer
    assert not POINTS[2].beats(POINTS[0])


def test_the_file_is_read_as_it_was_written_and_follows_the_schema(tmp_path: Path) -> None:
    frontier.write_frontier(values(), tmp_path)
    assert frontier.read_frontier(tmp_path) == values()
    Draft202012Validator({"$ref": "#/$defs/Frontier", "$defs": schema()["$defs"]}).validate(values())
    figures = {point.key: point.figures for point in POINTS if point.key is not None}
    assert frontier.known_figures(tmp_path) == figures
    text = {"a": {"points": [{**values()["tasks"]["a"]["points"][0], "mean_kl_nats": "0.1"}]}}
    changes = [{"schema": "x"}, {"speedups_over": None}, {"tasks": {"a": {"points": [{}]}}}, {"tasks": text}]
    for change in changes:
        (tmp_path / frontier.FRONTIER).write_text(json.dumps(values() | change), "utf-8")
        assert frontier.read_frontier(tmp_path) is None
        assert frontier.known_figures(tmp_path) == {}
