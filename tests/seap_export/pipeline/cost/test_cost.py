"""What is said beforehand, of large models against values by hand, is what an export takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.random_model import write_random_model
from support.exports import run_here
from support.product import CalibrationStep, FormatStep, PlanStep, QualityStep, RoundingStep, ShrinkStep

from seap_export.pipeline.cost.cost import Disk, Rates, total_disk
from seap_export.pipeline.cost.workload import TokenCounts, Workload
from seap_export.pipeline.scale_estimate import Machine, estimate
from validation.shapes import SHAPES, Shape

SHAPE = Shape(layers=2, hidden=256, heads=8, kv_heads=4, neurons=1024, vocabulary=4096, positions=1024, tied=True)
TEXTS = [f"{number} apples and {number + 1} pears make {2 * number + 1} pieces of fruit." for number in range(12)]


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_an_export_takes_what_was_said(tmp_path: Path, precision: str) -> None:
    write_random_model(tmp_path / "m", SHAPE)
    corpus = tmp_path / "fruit.txt"
    corpus.write_text("\n\n".join(TEXTS), "utf-8")
    words = ["export", tmp_path / "m", "--task", f"fruit={corpus}", "--ratio", "0.5", "--precision", precision]
    words += ["--set", "held_out=2", "--out", tmp_path / "out", "--quiet"]
    said, done = run_here(*words, "--dry-run", "--json"), run_here(*words)
    assert (said.code, done.code) == (0, 0), done
    taken = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert json.loads(said.out)["disk_about"]["kept"] == pytest.approx(taken, rel=0.1)


def test_what_stays_adds_up_and_what_goes_does_not() -> None:
    assert total_disk([Disk(5, 2, 0), Disk(7, 3, 4), Disk(0, 0, 9)]) == Disk(12, 3, 9)


LLAMA = Workload(SHAPES["llama-2-7b"].spec, torch.bfloat16)
#: Weights of a layer, without norms: q, k, v and o, and gate, up and down; and of the whole, with half of them.
LAYER = 4 * 4096**2 + 3 * 4096 * 11008
HALF = 6_738_415_616 - 16 * LAYER
#: 2,048 tokens of 4096 float32 values.
STATES = 2048 * 4096 * 4
BASE = 650_000_000


def disk_of(step: Any, ratio: float = 0.5, work: Workload = LLAMA, tokens: TokenCounts = TokenCounts(2048, 0)) -> Disk:  # noqa: B008
    return step.cost.disk(tokens, ratio, work)


def test_disk_by_hand() -> None:
    """32 layers; covariances of 4096 and 11008 channels."""
    calibration, rounding = disk_of(CalibrationStep, 0.0), disk_of(RoundingStep)
    assert calibration.kept == pytest.approx(32 * 4 * (4096 * 4097 // 2 + 11008 * 11009 // 2), rel=0.002)
    assert calibration.unfinished == 2 * STATES
    assert disk_of(ShrinkStep).kept == pytest.approx(2 * HALF, rel=0.001)
    assert disk_of(FormatStep).kept == pytest.approx(4 * HALF, rel=0.001)
    assert rounding.kept == pytest.approx(4 * HALF, rel=0.001)
    assert rounding.unfinished == 4 * STATES + 2 * 4 * 32000 * 4096
    assert disk_of(QualityStep, 0.0, tokens=TokenCounts(0, 1000)).temporary == 4 * 32000 * 1000
    assert disk_of(PlanStep).unfinished == 0
    tried = replace(LLAMA, plan=replace(LLAMA.plan, trials=3))
    assert disk_of(PlanStep, work=tried).unfinished == 64 * STATES


def test_memory_of_a_layer_by_hand() -> None:
    """The layer twice in float32, two float64 matrices of 11008 channels, a batch of 1,024, and the hidden states."""
    batch = 4 * 1024 * (6 * 11008 + 2 * 32 * 1024)
    memory = CalibrationStep.cost.memory(TokenCounts(2048, 0), 0.0, LLAMA, on_gpu=False)
    assert memory.host == pytest.approx(BASE + 8 * LAYER + 16 * 11008**2 + batch + STATES, rel=0.001)


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
