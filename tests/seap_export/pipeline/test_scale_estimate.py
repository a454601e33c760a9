"""What is computed for large models, against values by hand; docs/contributing/scale.md shows the same formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seap_export.pipeline.cost.cost import Memory, Rates
from seap_export.pipeline.cost.workload import TokenCounts, Workload
from seap_export.pipeline.scale_estimate import Machine, estimate
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from validation.shapes import SHAPES

LLAMA = Workload(SHAPES["llama-2-7b"].spec, torch.bfloat16)
#: Weights of a layer, without norms: q, k, v and o, and gate, up and down.
LAYER = 4 * 4096**2 + 3 * 4096 * 11008
BASE = 650_000_000


def memory_of(step: Any, tokens: TokenCounts, ratio: float, work: Workload, *, on_gpu: bool = False) -> Memory:
    return step.cost.memory(tokens, ratio, work, on_gpu=on_gpu)


def test_memory_of_a_layer() -> None:
    """The layer twice in float32, two float64 matrices of 11008 channels, a batch of 1,024, and the hidden states."""
    batch = 4 * 1024 * (6 * 11008 + 2 * 32 * 1024)
    bytes_of_layer = memory_of(CalibrationStep, TokenCounts(2048, 0), 0.0, LLAMA).host
    assert bytes_of_layer == pytest.approx(BASE + 8 * LAYER + 16 * 11008**2 + batch + 2048 * 4096 * 4, rel=0.001)


def test_times_by_hand() -> None:
    """Ranking: 0.85 N³ + H N² in float32, 3.5 A³ in float64; and 0.3 of the checkpoint is read."""
    machine = Machine(Rates(1e12, 5e11, 1e11), disk=1e9)
    neurons, checkpoint = 32 * (0.85 * 11008**3 + 4096 * 11008**2), 2 * 6_738_415_616
    heads = 32 * 3.5 * 4096**3
    expected_work = estimate(LLAMA, 2048, 0.5, machine)
    assert expected_work.seconds["ranking"] == pytest.approx(
        1.8 * (neurons / 1e12 + heads / 5e11) + 32 * 0.25 + 0.3 * checkpoint / 1e9
    )
    squares = 32 * (4096**2 + 11008**2)
    passed = 2048 * (32 * LAYER + squares / 2) + 3 * 512 * (32 * LAYER + 32000 * 4096)
    assert expected_work.seconds["calibration"] == pytest.approx(
        1.8 * passed / 1e12 + 32 * 0.15 + 5.0 + 2 * checkpoint / 1e9, rel=0.001
    )
