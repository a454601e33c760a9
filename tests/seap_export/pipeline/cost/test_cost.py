from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.product import (
    CalibrationStep,
    FormatStep,
    OnnxFormat,
    ParityStep,
    PlanStep,
    QualityStep,
    RoundingStep,
    ShrinkStep,
    ValidationStep,
)
from support.variations import micro_config

from converters.mlx.format import MlxFormat
from seap_export.model.families import model_spec
from seap_export.pipeline.cost.cost import Rates
from seap_export.pipeline.cost.workload import TokenCounts, Workload
from seap_export.pipeline.steps.joint.speed import SpeedStep
from seap_export.pipeline.steps.single.ranking import RankingStep

RATES = Rates(operations=1e9, double_operations=5e8, memory_bytes=1e9)
WORK = Workload(model_spec(micro_config(model_type="llama")), torch.float32)
TOKENS = TokenCounts(calibration_tokens=100_000, held_out_tokens=10_000)
OF_A_VARIANT = [ShrinkStep, RoundingStep, FormatStep, ParityStep, QualityStep, SpeedStep, ValidationStep]


def planned(work: Workload, **changes: Any) -> Workload:
    """The same with other settings of plans."""
    return replace(work, plan=replace(work.plan, **changes))


def seconds_of(step: Any, tokens: TokenCounts, ratio: float, work: Workload, rates: Rates) -> float:
    return step.cost.seconds(tokens, ratio, work, rates)


def disk_of(step: Any, tokens: TokenCounts, ratio: float, work: Workload, rates: Rates) -> int:
    unfinished: int = step.cost.disk(tokens, ratio, work).unfinished
    return unfinished


@pytest.mark.parametrize("step", [CalibrationStep, RankingStep, *OF_A_VARIANT])
def test_a_slower_machine_takes_longer(step: Any) -> None:
    slow = Rates(*(rate / 10 for rate in (RATES.operations, RATES.double_operations, RATES.memory_bytes)))
    assert 0 < seconds_of(step, TOKENS, 0.2, WORK, RATES) < seconds_of(step, TOKENS, 0.2, WORK, slow)


@pytest.mark.parametrize("step", OF_A_VARIANT)
def test_a_smaller_variant_takes_less(step: Any) -> None:
    assert seconds_of(step, TOKENS, 0.5, WORK, RATES) < seconds_of(step, TOKENS, 0.2, WORK, RATES)


@pytest.mark.parametrize(
    ("step", "field"), [(CalibrationStep, "calibration_tokens"), (QualityStep, "held_out_tokens")]
)
def test_more_tokens_take_longer(step: Any, field: str) -> None:
    more = replace(TOKENS, **{field: 2 * getattr(TOKENS, field)})
    assert seconds_of(step, more, 0.0, WORK, RATES) > seconds_of(step, TOKENS, 0.0, WORK, RATES)


def test_recipes_that_do_less_take_less() -> None:
    plain = planned(WORK, score="wifv", compensation="none")
    for step in (RankingStep, ShrinkStep):
        assert seconds_of(step, TOKENS, 0.2, plain, RATES) < seconds_of(step, TOKENS, 0.2, WORK, RATES)


def test_a_whole_model_is_copied() -> None:
    """Whatever the recipe: there is nothing to plan, to refit or to distil."""
    plain, tried = planned(WORK, compensation="none"), planned(WORK, trials=9)
    assert seconds_of(ShrinkStep, TOKENS, 0.0, WORK, RATES) == seconds_of(ShrinkStep, TOKENS, 0.0, plain, RATES)
    for count in (seconds_of, disk_of):
        assert count(PlanStep, TOKENS, 0.0, tried, RATES) == 0 < count(PlanStep, TOKENS, 0.01, tried, RATES)
    assert disk_of(ShrinkStep, TOKENS, 0.0, WORK, RATES) == 0 < disk_of(ShrinkStep, TOKENS, 0.01, WORK, RATES)


def test_too_few_tokens_to_distil_take_as_long_as_a_refit_alone() -> None:
    refit, tokens = planned(WORK, distillation=0.0), TOKENS.calibration_tokens
    for count in (seconds_of, disk_of):
        enough, few = (
            count(ShrinkStep, TOKENS, 0.2, planned(WORK, min_tokens=least), RATES) for least in (tokens, tokens + 1)
        )
        assert few == count(ShrinkStep, TOKENS, 0.2, refit, RATES) < enough
        assert enough == count(ShrinkStep, TOKENS, 0.2, WORK, RATES)


def test_fresh_texts_take_time_and_disk_for_each_task() -> None:
    work = planned(WORK, fresh_tokens=200_000)
    for count in (seconds_of, disk_of):
        none = count(ShrinkStep, TOKENS, 0.2, WORK, RATES)
        one, two = (count(ShrinkStep, replace(TOKENS, tasks=tasks), 0.2, work, RATES) for tasks in (1, 2))
        assert none < one < two
    few = planned(work, min_tokens=TOKENS.calibration_tokens + 1)
    assert seconds_of(ShrinkStep, TOKENS, 0.2, few, RATES) == seconds_of(ShrinkStep, TOKENS, 0.2, work, RATES)
    refit = planned(WORK, distillation=0.0)
    with_fresh = planned(refit, fresh_tokens=200_000)
    assert seconds_of(ShrinkStep, TOKENS, 0.2, refit, RATES) < seconds_of(ShrinkStep, TOKENS, 0.2, with_fresh, RATES)


def test_each_plan_that_is_tried_takes_as_long() -> None:
    seconds = [seconds_of(PlanStep, TOKENS, 0.2, planned(WORK, trials=trials), RATES) for trials in (0, 1, 2, 3)]
    assert seconds[0] == 0 < seconds[1]
    assert seconds[2] - seconds[1] == pytest.approx(seconds[3] - seconds[2])
    few = replace(TOKENS, calibration_tokens=1000)
    assert seconds_of(PlanStep, few, 0.2, planned(WORK, trials=3), RATES) < seconds[3]


@pytest.mark.parametrize(
    ("step", "formats"),
    [(FormatStep, (OnnxFormat("fp32"), OnnxFormat("int4"))), (ParityStep, (MlxFormat("fp32"), MlxFormat("4bit")))],
)
def test_quantised_weights_take_longer(step: Any, formats: tuple[Any, Any]) -> None:
    plain, coarse = (replace(WORK, format=format) for format in formats)
    assert seconds_of(step, TOKENS, 0.2, plain, RATES) < seconds_of(step, TOKENS, 0.2, coarse, RATES)


def test_parity_of_int8_takes_no_longer_in_onnx_runtime() -> None:
    plain, coarse = (replace(WORK, format=OnnxFormat(precision)) for precision in ("fp32", "int8"))
    assert seconds_of(ParityStep, TOKENS, 0.2, plain, RATES) >= seconds_of(ParityStep, TOKENS, 0.2, coarse, RATES)


@pytest.mark.parametrize("step", [ParityStep, *([] if sys.platform == "darwin" else [QualityStep, SpeedStep])])
def test_slower_runtimes_take_longer(step: Any) -> None:
    other = replace(WORK, format=MlxFormat("fp32"))
    assert seconds_of(step, TOKENS, 0.2, WORK, RATES) < seconds_of(step, TOKENS, 0.2, other, RATES)
    assert seconds_of(FormatStep, TOKENS, 0.2, WORK, RATES) == seconds_of(FormatStep, TOKENS, 0.2, other, RATES)
