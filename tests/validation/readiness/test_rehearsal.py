"""The real commands, on the CPU and on a model of no size: each kind of step once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.random_model import write_random_model

from validation.readiness.request import Programs, Request
from validation.readiness.run import run_steps
from validation.readiness.steps import plan_steps
from validation.shapes import Shape

pytestmark = pytest.mark.full
ROOT = Path(__file__).parents[3]
SHAPE = Shape(layers=4, hidden=128, heads=4, kv_heads=4, neurons=352, vocabulary=512, positions=512)
#: One of each kind but the export, which other tests run; those of the other precisions differ in a word.
WANTED = (
    *("doctor", "variants", "parity-fp32-fused"),
    *("genai", "profile", "bench-int4", "large-model", "large-bench-0.5"),
)


def test_every_kind_of_step_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    write_random_model(tmp_path / "model", SHAPE)
    programs = Programs(
        seap_export=(str(Path(sys.executable).with_name("seap-export")),),
        python=(sys.executable,),
        genai=(str(ROOT / ".venv-genai" / "bin" / "python"),),
        make_genai=("test", "-x", ".venv-genai/bin/python"),
    )
    request = Request(
        programs,
        str(tmp_path / "model"),
        ROOT / "seap_export" / "corpus" / "samples" / "arithmetic.jsonl",
        "cpu",
        tmp_path / "report",
        tmp_path / "work",
        SHAPE,
        depths=(16,),
        runs=1,
        steps=2,
    )
    outcomes = run_steps(plan_steps(request), request, WANTED, 600.0, print)
    assert {name: outcome.reason for name, outcome in outcomes.items() if outcome.verdict != "passed"} == {}
    report = json.loads((request.out / "report.json").read_text("utf-8"))
    assert report["verdict"] == "incomplete"
    assert [row["form"] for row in report["parity"]] == ["fp32, fused"]
    assert [row["variant"] for row in report["speed"]] == [
        "dense", "arithmetic-0.2", "arithmetic-0.5", "dense", "random-0.5"
    ]  # fmt: skip
    assert report["genai"]["device"] == "CPU"
    assert report["profile"]["step"]["CPUExecutionProvider"]["GroupQueryAttention"] == SHAPE.layers
