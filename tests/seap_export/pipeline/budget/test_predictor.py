from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.product import Candidate, FirstToken, GgufFormat, OnnxFormat, PromptTime, Targets, Times, Workload, ways
from support.variations import micro_config

from seap_export.model.families import ModelSpec, model_spec
from seap_export.pipeline.budget.predictor import Predictor
from seap_export.pipeline.budget.prompts import Prompts
from seap_export.pipeline.cost.workload import KeptPart

SPEC = model_spec(micro_config(model_type="llama", intermediate_size=1000))
FP32, INT8 = ways([OnnxFormat("fp32"), OnnxFormat("int8")], "all")
BESIDE = 1000


def shrunk(candidate: Candidate) -> ModelSpec:
    width = round(1000 * (1 - candidate.ratio))
    return SPEC.with_layers(tuple(layer.changed(intermediate_size=width) for layer in SPEC.layers))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(shrunk, 0.9, OnnxFormat("fp32"), 16, lambda candidate: BESIDE)


def test_sizes_follow_from_the_shapes_and_from_what_was_written(predictor: Predictor) -> None:
    pruned = replace(INT8, ratio=0.5)
    before = predictor.bytes(pruned) - predictor.bytes(INT8)
    assert before == OnnxFormat("int8").size(shrunk(replace(INT8, ratio=0.5))) - OnnxFormat("int8").size(SPEC)
    predictor.learn_bytes(INT8, 100_000)
    assert predictor.bytes(pruned) == 100_000 + before
    assert (
        predictor.bytes(replace(FP32, ratio=0.5)) == OnnxFormat("fp32").size(shrunk(replace(INT8, ratio=0.5))) + BESIDE
    )
    half = replace(FP32, ratio=0.5)
    predictor.learn_bytes(half, predictor.bytes(half) + 7)
    assert predictor.bytes(FP32) == OnnxFormat("fp32").size(SPEC) + BESIDE + 7


def test_a_tokenizer_within_the_weights_counts_once() -> None:
    """As a step's estimate of the disk has it."""
    work = Workload(SPEC, torch.float32, tokenizer_bytes=50_000)
    predictor = Predictor(shrunk, 0.9, OnnxFormat("fp32"), 16, lambda candidate: work.beside_weights(candidate.format))
    for format, more in ((GgufFormat("q8_0"), 0), (OnnxFormat("int8"), 50_000)):
        assert predictor.bytes(Candidate(0.0, format)) - format.size(SPEC) == pytest.approx(more, abs=40_000)
        assert KeptPart(work, 1.0).folder_bytes(format) - format.size(SPEC) == pytest.approx(more, abs=40_000)


def test_the_least_ratio_is_the_first_that_fits(predictor: Predictor) -> None:
    targets = Targets(size=predictor.bytes(replace(FP32, ratio=0.4)))
    ratio = predictor.least_ratio(FP32, targets)
    assert ratio is not None
    assert targets.size is not None
    assert predictor.bytes(replace(FP32, ratio=ratio)) <= targets.size * 0.997
    assert predictor.bytes(replace(FP32, ratio=round(ratio - 0.001, 3))) > targets.size * 0.997
    assert predictor.least_ratio(INT8, targets) == 0.0
    assert predictor.least_ratio(FP32, Targets(size=1)) is None


def test_speed_is_over_the_usual_precision_and_learns(predictor: Predictor) -> None:
    assert predictor.ideal_speedup(FP32) == 1.0
    assert 3.0 < predictor.ideal_speedup(INT8) < 4.0
    pruned = replace(INT8, ratio=0.5)
    assert predictor.speedup(pruned) == predictor.ideal_speedup(pruned)
    wanted = Targets(decode_speedup=predictor.ideal_speedup(INT8))
    assert predictor.least_ratio(INT8, wanted) == 0.0
    predictor.learn_times(INT8, Times(predictor.ideal_speedup(INT8) / 2))
    assert predictor.speedup(pruned) == pytest.approx(predictor.ideal_speedup(pruned) / 2)
    ratio = predictor.least_ratio(INT8, wanted)
    assert ratio is not None
    assert ratio > 0.5


def test_the_time_of_a_prompt_follows_from_its_products_and_from_what_was_timed() -> None:
    integers, half = Candidate(0.0, OnnxFormat("w8a8")), replace(INT8, ratio=0.5)
    predictor = Predictor(shrunk, 0.9, OnnxFormat("fp32"), 16, lambda candidate: BESIDE, Prompts(64, 1e6))

    def ms(candidate: Candidate) -> float:
        found = predictor.first_token_ms(candidate)
        assert found is not None
        return found

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
    asked = Targets(first_token=FirstToken(64, ms=80.0 * share))
    assert predictor.least_ratio(INT8, asked) == pytest.approx(0.5, abs=0.002)
    assert predictor.least_ratio(INT8, Targets(first_token=FirstToken(64, speedup=1.25))) == 0.0
    assert predictor.least_ratio(INT8, Targets(first_token=FirstToken(64, speedup=1.26))) > 0.0  # type: ignore[operator]
