"""What is said beforehand, of large models against values by hand, is what an export takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.random_model import write_random_model
from click.testing import CliRunner
from support.product import (
    CalibrationStep,
    FormatStep,
    PlanStep,
    QualityStep,
    RoundingStep,
    ShrinkStep,
)

from seap_export.cli import main
from seap_export.pipeline.cost.cost import Disk, Memory, Rates, total_disk
from seap_export.pipeline.cost.workload import TokenCounts, Workload
from seap_export.pipeline.scale_estimate import Machine, estimate
from validation.shapes import SHAPES, Shape

SHAPE = Shape(layers=2, hidden=256, heads=8, kv_heads=4, neurons=1024, vocabulary=4096, positions=1024, tied=True)
TEXTS = [f"{number} apples and {number + 1} pears make {2 * number + 1} pieces of fruit." for number in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder, SHAPE)
    return folder


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_an_export_takes_what_was_said(model: Path, tmp_path: Path, precision: str) -> None:
    corpus = tmp_path / "fruit.txt"
    corpus.write_text("\n\n".join(TEXTS), "utf-8")
    words = ["export", str(model), "--task", f"fruit={corpus}", "--ratio", "0.5", "--precision", precision]
    words += ["--set", "held_out=2", "--no-quality", "--no-speed", "--out", str(tmp_path / "out"), "--quiet"]
    said = CliRunner().invoke(main, [*words, "--dry-run", "--json"], catch_exceptions=False)
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert (said.exit_code, done.exit_code) == (0, 0), done.output
    taken = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert json.loads(said.stdout)["disk_about"]["kept"] == pytest.approx(taken, rel=0.1)


def test_what_stays_adds_up_and_what_goes_does_not() -> None:
    assert total_disk([Disk(5, 2, 0), Disk(7, 3, 4), Disk(0, 0, 9)]) == Disk(12, 3, 9)


def test_llama_2_7b_by_hand() -> None:
    """32 layers; covariances of 4096 and 11008 channels; 2,048 tokens of 4096 float32 values."""
    shape = SHAPES["llama-2-7b"]
    work = Workload(shape.spec, torch.bfloat16)
    calibration = CalibrationStep.cost.disk(TokenCounts(2048, 0), 0.0, work)
    triangles = 32 * 4 * (4096 * 4097 // 2 + 11008 * 11009 // 2)
    assert calibration.kept == pytest.approx(triangles, rel=0.002)
    assert calibration.unfinished == 2 * 2048 * 4096 * 4
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    half = 6_738_415_616 - 16 * layer
    assert ShrinkStep.cost.disk(TokenCounts(2048, 0), 0.5, work).kept == pytest.approx(2 * half, rel=0.001)
    assert FormatStep.cost.disk(TokenCounts(2048, 0), 0.5, work).kept == pytest.approx(4 * half, rel=0.001)
    rounding = RoundingStep.cost.disk(TokenCounts(2048, 0), 0.5, work)
    assert rounding.kept == pytest.approx(4 * half, rel=0.001)
    assert rounding.unfinished == 4 * 2048 * 4096 * 4 + 2 * 4 * 32000 * 4096
    assert QualityStep.cost.disk(TokenCounts(0, 1000), 0.0, work).temporary == 4 * 32000 * 1000
    assert PlanStep.cost.disk(TokenCounts(2048, 0), 0.5, work).unfinished == 0
    tried = PlanStep.cost.disk(TokenCounts(2048, 0), 0.5, replace(work, plan=replace(work.plan, trials=3)))
    assert tried.unfinished == 64 * 2048 * 4096 * 4


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
