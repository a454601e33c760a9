from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.product import (
    FormatStep,
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


@pytest.mark.parametrize("step", OF_A_VARIANT)
def test_a_smaller_variant_takes_less(step: Any) -> None:
    assert seconds_of(step, TOKENS, 0.5, WORK, RATES) < seconds_of(step, TOKENS, 0.2, WORK, RATES)


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


@pytest.mark.parametrize("step", [ParityStep, *([] if sys.platform == "darwin" else [QualityStep, SpeedStep])])
def test_slower_runtimes_take_longer(step: Any) -> None:
    other = replace(WORK, format=MlxFormat("fp32"))
    assert seconds_of(step, TOKENS, 0.2, WORK, RATES) < seconds_of(step, TOKENS, 0.2, other, RATES)
    assert seconds_of(FormatStep, TOKENS, 0.2, WORK, RATES) == seconds_of(FormatStep, TOKENS, 0.2, other, RATES)
