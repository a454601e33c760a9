from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.product import OnnxFormat
from support.variations import micro_config

from converters.mlx.format import MlxFormat
from seap_export.families import model_spec
from seap_export.pipeline.cost.time import Machine, step_seconds
from seap_export.pipeline.cost.workload import Task, Workload

MACHINE = Machine(operations=1e9, double_operations=5e8, memory_bytes=1e9)
WORK = Workload(model_spec(micro_config(model_type="llama")), torch.float32)
TASK = Task(calibration_tokens=100_000, held_out_tokens=10_000)
STEPS = ("calibration", "ranking", "shrinking", "rounding", "writing", "parity", "quality", "speed", "validation")


@pytest.mark.parametrize("step", STEPS)
def test_a_slower_machine_takes_longer(step: str) -> None:
    slow = Machine(*(rate / 10 for rate in (MACHINE.operations, MACHINE.double_operations, MACHINE.memory_bytes)))
    assert 0 < step_seconds(step, TASK, 0.2, WORK, MACHINE) < step_seconds(step, TASK, 0.2, WORK, slow)


@pytest.mark.parametrize("step", ["shrinking", "rounding", "writing", "parity", "quality", "speed", "validation"])
def test_a_smaller_variant_takes_less(step: str) -> None:
    assert step_seconds(step, TASK, 0.5, WORK, MACHINE) < step_seconds(step, TASK, 0.2, WORK, MACHINE)


@pytest.mark.parametrize(("step", "field"), [("calibration", "calibration_tokens"), ("quality", "held_out_tokens")])
def test_more_tokens_take_longer(step: str, field: str) -> None:
    more = replace(TASK, **{field: 2 * getattr(TASK, field)})
    assert step_seconds(step, more, 0.0, WORK, MACHINE) > step_seconds(step, TASK, 0.0, WORK, MACHINE)


def test_recipes_that_do_less_take_less() -> None:
    plain = replace(WORK, eliminates=False, refits=False)
    for step in ("ranking", "shrinking"):
        assert step_seconds(step, TASK, 0.2, plain, MACHINE) < step_seconds(step, TASK, 0.2, WORK, MACHINE)


def test_each_plan_that_is_tried_takes_as_long() -> None:
    seconds = [step_seconds("plan", TASK, 0.2, replace(WORK, trials=trials), MACHINE) for trials in (0, 1, 2, 3)]
    assert seconds[0] == 0 < seconds[1]
    assert seconds[2] - seconds[1] == pytest.approx(seconds[3] - seconds[2])
    few = replace(TASK, calibration_tokens=1000)
    assert step_seconds("plan", few, 0.2, replace(WORK, trials=3), MACHINE) < seconds[3]


@pytest.mark.parametrize("step", ["writing", "parity"])
def test_quantised_weights_take_longer(step: str) -> None:
    plain, coarse = (replace(WORK, own=OnnxFormat(precision)) for precision in ("fp32", "int4"))
    assert step_seconds(step, TASK, 0.2, plain, MACHINE) < step_seconds(step, TASK, 0.2, coarse, MACHINE)


def test_parity_takes_longer_in_slower_runtimes() -> None:
    other = replace(WORK, own=MlxFormat("fp32"))
    assert step_seconds("parity", TASK, 0.2, WORK, MACHINE) < step_seconds("parity", TASK, 0.2, other, MACHINE)
    assert step_seconds("writing", TASK, 0.2, WORK, MACHINE) == step_seconds("writing", TASK, 0.2, other, MACHINE)
