"""Whatever happens to a step, the others are tried and the report tells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from support.corpora import write_corpus

from validation.readiness import machine
from validation.readiness.processes import run_command
from validation.readiness.request import Request
from validation.readiness.run import run_steps
from validation.readiness.step import Command, Outcome, Step
from validation.readiness.steps import plan_steps

Pretended = Callable[..., Request]
ROOT = Path(__file__).parents[3]


def ran(request: Request, wanted: list[str] | None = None, limit: float = 60.0) -> dict[str, Outcome]:
    steps = plan_steps(request)
    return run_steps(steps, request, wanted or [step.name for step in steps], limit, lambda line: None)


def report_of(request: Request) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((request.out / "report.json").read_text("utf-8"))
    return report


def test_all_steps_pass(pretended: Pretended) -> None:
    request = pretended()
    outcomes = ran(request)
    assert {outcome.verdict for outcome in outcomes.values()} == {"passed"}, outcomes
    assert report_of(request)["verdict"] == "passed"
    assert report_of(request)["not_run"] == []


def test_a_failing_step_stops_no_other(pretended: Pretended) -> None:
    request = pretended({"validate": 3})
    outcomes = ran(request)
    failed = {name for name, outcome in outcomes.items() if outcome.verdict == "failed"}
    assert failed == {f"parity-{precision}-{dialect}" for precision, dialect in request.forms}
    assert outcomes["parity-fp16-fused"].reason == "validate was told to fail (exit code 3)"
    assert outcomes["bench-fp16"].verdict == outcomes["large-bench-0.5"].verdict == "passed"
    assert report_of(request)["verdict"] == "failed"


def test_a_command_that_dies_is_told_by_its_signal(pretended: Pretended) -> None:
    outcomes = ran(pretended({"generate": -signal.SIGSEGV}))
    assert outcomes["profile"].verdict == "failed"
    assert "SIGSEGV" in outcomes["profile"].reason
    assert outcomes["bench-int4"].verdict == "passed"


def test_steps_without_what_they_need_are_blocked(pretended: Pretended) -> None:
    request = pretended({"prune": 6})
    outcomes = ran(request)
    assert outcomes["variants"].verdict == outcomes["large-model"].verdict == "failed"
    assert {outcomes[name].verdict for name in ("parity-bf16-standard", "genai", "profile", "bench-fp16")} == {
        "blocked"
    }
    assert "hf" in outcomes["bench-fp16"].reason
    assert outcomes["large-bench-0.2"].verdict == "blocked"
    assert outcomes["export"].verdict == "passed"


def test_an_export_that_fails_leaves_what_the_others_need(pretended: Pretended) -> None:
    outcomes = ran(pretended({"export": 3}))
    assert [name for name, outcome in outcomes.items() if outcome.verdict != "passed"] == ["export"]


def test_a_machine_without_a_gpu_fails_and_writes_no_large_model(pretended: Pretended) -> None:
    outcomes = ran(pretended({"doctor": 6, "export": 6}))
    assert outcomes["doctor"].verdict == "failed"
    assert outcomes["large-model"].verdict == "skipped"
    assert "GPU memory" in outcomes["large-model"].reason
    assert outcomes["large-bench-0.5"].verdict == "blocked"


def test_a_full_disk_skips_a_step(pretended: Pretended, monkeypatch: pytest.MonkeyPatch) -> None:
    request = pretended()
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10**9})())
    outcomes = ran(request)
    assert outcomes["export"].verdict == "skipped"
    assert "disk space" in outcomes["export"].reason
    assert outcomes["doctor"].verdict == "passed"


def test_what_a_step_replaces_counts_as_free(pretended: Pretended) -> None:
    request = pretended()
    request.work.mkdir()
    replaced = request.work / "own"
    replaced.mkdir()
    (replaced / "weights").write_bytes(b"x" * 1000)
    free = machine.shutil.disk_usage(request.work).free
    step = Step("own", "", (), replaces=replaced, disk_bytes=free + 10**12)
    assert machine.shortage(step, request)
    assert machine.shortage(replace(step, disk_bytes=0), request) == ""


def test_the_cpu_needs_no_memory_of_a_gpu(pretended: Pretended) -> None:
    request = pretended(provider="cpu")
    request.work.mkdir()
    step = Step("own", "", (), gpu_bytes=10**15)
    assert machine.shortage(step, request) == ""
    assert machine.shortage(step, replace(request, provider="cuda"))


def test_a_missing_nvidia_smi_fails_nothing(pretended: Pretended) -> None:
    request = pretended()
    programs = replace(request.programs, nvidia_smi=("no-such-program",))
    outcomes = ran(replace(request, programs=programs), ["doctor"])
    assert outcomes["doctor"].verdict == "passed"
    assert [command.exit_code for command in outcomes["doctor"].done] == [0, None, 0]


def test_the_reason_is_the_failing_command_s(pretended: Pretended) -> None:
    """Not that of an optional one before it."""
    request = pretended({"doctor": -signal.SIGKILL})
    steps = plan_steps(request)
    optional = Command(("no-such-program",), is_optional=True)
    doctor = replace(steps[0], commands=(optional, steps[0].commands[-1]))
    [outcome] = run_steps([doctor], request, ["doctor"], 60.0, lambda line: None).values()
    assert "SIGKILL" in outcome.reason
    assert "no-such-program" not in outcome.reason


def test_a_command_that_hangs_is_stopped(pretended: Pretended) -> None:
    begin = time.monotonic()
    outcomes = ran(pretended({"generate": 99}), ["variants", "parity-fp16-fused", "profile"], limit=3.0)
    assert outcomes["profile"].verdict == "failed"
    assert "3 seconds" in outcomes["profile"].reason
    assert time.monotonic() - begin < 50


def test_a_command_that_ignores_the_request_to_end_is_killed(tmp_path: Path) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    done = run_command(Command((sys.executable, "-c", deaf)), tmp_path / "log", 1.0, Event(), patience=0.5)
    assert done.exit_code is None
    assert done.seconds < 30


def test_a_result_that_is_no_json_is_no_crash(pretended: Pretended) -> None:
    request = pretended()
    ran(request, ["doctor", "variants", "bench-fp16"])
    request.result("bench-int4").write_text("{", "utf-8")
    request.result("doctor").write_text("[]", "utf-8")
    outcomes = ran(request, ["parity-fp16-fused"])
    assert outcomes["parity-fp16-fused"].verdict == "passed"
    assert len(report_of(request)["speed"]) == 3


def test_a_second_run_keeps_what_is_not_asked_for(pretended: Pretended) -> None:
    ran(pretended({"bench": 5}))
    request = pretended()
    outcomes = ran(request, ["bench-fp16"])
    assert outcomes["bench-fp16"].verdict == "passed"
    assert outcomes["bench-bf16"].verdict == "failed"
    assert report_of(request)["not_run"] == []
    other = replace(request, runs=3)  # its commands differ, so nothing is known of it
    assert "bench-bf16" not in ran(other, ["doctor"])


def test_a_failed_step_leaves_no_old_figures(pretended: Pretended) -> None:
    request = pretended()
    ran(request, ["doctor"])
    assert report_of(request)["machine"]["driver"]
    ran(pretended({"doctor": 6}), ["doctor"])
    assert report_of(request)["machine"]["driver"] is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_a_report_and_no_process(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Stopped as soon as the first command has started."""
    texts = write_corpus(tmp_path / "texts.jsonl")
    out, work = tmp_path / "report", tmp_path / "work"
    words = [
        "--model",
        "model.gguf",
        "--texts",
        str(texts),
        "--provider",
        "cpu",
        "--out",
        str(out),
        "--work",
        str(work),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "validation.readiness", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    log = out / "logs" / "doctor.log"
    while not log.is_file():
        time.sleep(0.05)
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        pytest.skip("this system does not tell the children of a process")
    while not (children_ids := children.read_text("utf-8").split()):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "report.md" in errors
    assert not any(os.path.exists(f"/proc/{pid}") for pid in children_ids)
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert (report["verdict"], report["steps"]["doctor"]["verdict"]) == ("interrupted", "interrupted")
