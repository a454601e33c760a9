"""Sizes, times and the KL of candidates: predicted, and corrected by what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.estimates import kl_estimate
from support.product import (
    Candidate,
    CandidateFigures,
    FirstToken,
    Guess,
    OnnxFormat,
    Point,
    PromptTime,
    Targets,
    Times,
    ways,
)
from support.variations import micro_config

from seap_export.model.families import ModelSpec, model_spec
from seap_export.pipeline.budget.curve import KlCurve
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.prompts import Prompts

#: A bit less costs four times as much, and 0.2 of the ratio four times as much as 0.1.
GUESS = Guess(((2.5, 0.64), (4.5, 0.04)), ((0.1, 0.02), (0.2, 0.08)))
INT4, MIXED = Candidate(0.0, OnnxFormat("int4")), Candidate(0.0, OnnxFormat("mixed-3.5"))


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
    of_int8 = KlCurve([point(Candidate(0.0, OnnxFormat("int8")), 0.501, lost=0.5)], GUESS)
    assert of_int8.at(MIXED) == pytest.approx(0.5 + 0.16)


def test_the_interval_is_about_what_is_not_measured() -> None:
    """If pruning costs less than guessed, what was measured says that rounding costs more."""
    measured = replace(MIXED, ratio=0.1)
    curve = KlCurve([point(measured, 0.18)], GUESS)
    assert curve.least(measured) == pytest.approx(curve.at(measured))
    assert curve.least(replace(MIXED, ratio=0.2)) == pytest.approx(0.18 * (0.16 + 0.08 / 1.35) / (0.16 + 0.02 / 1.35))
    assert curve.least(MIXED) == pytest.approx(0.18 * 0.16 / (0.16 + 0.02 * 1.35))


SPEC = model_spec(micro_config(model_type="llama", intermediate_size=1000))
FP32, INT8 = ways([OnnxFormat("fp32"), OnnxFormat("int8")], "all")
BESIDE = 1000


def shrunk(candidate: Candidate) -> ModelSpec:
    width = round(1000 * (1 - candidate.ratio))
    return SPEC.with_layers(tuple(layer.changed(intermediate_size=width) for layer in SPEC.layers))


def test_sizes_and_speeds_follow_from_the_shapes_and_from_what_was_measured() -> None:
    predictor = Predictor(shrunk, 0.9, OnnxFormat("fp32"), 16, lambda candidate: BESIDE)
    fp32, int8, half = OnnxFormat("fp32"), OnnxFormat("int8"), replace(FP32, ratio=0.5)
    pruned = replace(INT8, ratio=0.5)
    difference = int8.size(shrunk(pruned)) - int8.size(SPEC)
    assert predictor.bytes(pruned) - predictor.bytes(INT8) == difference
    predictor.learn_bytes(INT8, 100_000)
    assert predictor.bytes(pruned) == 100_000 + difference
    assert predictor.bytes(half) == fp32.size(shrunk(half)) + BESIDE
    targets = Targets(size=predictor.bytes(replace(FP32, ratio=0.4)))
    ratio, most = predictor.least_ratio(FP32, targets), 0.997 * predictor.bytes(replace(FP32, ratio=0.4))
    assert ratio is not None
    assert predictor.bytes(replace(FP32, ratio=ratio)) <= most
    assert predictor.bytes(replace(FP32, ratio=round(ratio - 0.001, 3))) > most
    assert predictor.least_ratio(INT8, targets) == 0.0
    assert predictor.least_ratio(FP32, Targets(size=1)) is None
    predictor.learn_bytes(half, predictor.bytes(half) + 7)
    assert predictor.bytes(FP32) == fp32.size(SPEC) + BESIDE + 7
    ideal = predictor.ideal_speedup(INT8)
    assert (predictor.ideal_speedup(FP32), 3.0 < ideal < 4.0) == (1.0, True)
    assert predictor.least_ratio(INT8, Targets(decode_speedup=ideal)) == 0.0
    predictor.learn_times(INT8, Times(ideal / 2))
    assert predictor.speedup(pruned) == pytest.approx(predictor.ideal_speedup(pruned) / 2)
    assert (predictor.least_ratio(INT8, Targets(decode_speedup=ideal)) or 0.0) > 0.5


def test_the_time_of_a_prompt_follows_from_its_products_and_from_what_was_timed() -> None:
    integers, half = Candidate(0.0, OnnxFormat("w8a8")), replace(INT8, ratio=0.5)
    predictor = Predictor(shrunk, 0.9, OnnxFormat("fp32"), 16, lambda candidate: BESIDE, Prompts(64, 1e6))

    def ms(candidate: Candidate) -> float:
        return predictor.first_token_ms(candidate) or 0.0

    linear = 64 * sum(SPEC.prunable_weights(index) for index in range(len(SPEC.layers)))
    assert linear / 1e6 < ms(FP32) / 1e3 < 1.5 * linear / 1e6
    assert ms(integers) < ms(FP32) < ms(INT8)
    assert ms(half) < ms(INT8)
    share = ms(half) / ms(INT8)
    predictor.learn_times(INT8, Times(1.0, None, PromptTime(80.0, 1.25)))
    assert (ms(INT8), ms(FP32)) == (pytest.approx(80.0), pytest.approx(100.0))
    assert ms(half) == pytest.approx(80.0 * share)
    assert ms(Candidate(0.0, OnnxFormat("mixed-4.5"))) == pytest.approx(80.0)  # as the slowest that works alike
    assert predictor.soonest_ms([FP32, INT8]) == pytest.approx(ms(replace(INT8, ratio=0.9)))
    wanted = (FirstToken(64, ms=80.0 * share), FirstToken(64, speedup=1.25), FirstToken(64, speedup=1.26))
    ratios = [predictor.least_ratio(INT8, Targets(first_token=each)) for each in wanted]
    assert ratios[:2] == pytest.approx([0.5, 0.0], abs=0.002)
    assert ratios[2]
