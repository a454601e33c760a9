"""The diagnosis of providers that work, fail, crash or hang."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.stand_ins.doctor import ONE_GPU, diagnosis

from seap_export.common.child_process import ChildEnded, ChildProcess
from seap_export.common.providers import PROVIDERS
from seap_export.errors import ArtifactError
from seap_export.runtime.doctor import diagnose, probe
from seap_export.runtime.doctor import diagnosis as module
from seap_export.runtime.doctor.models import TRIALS
from seap_export.runtime.doctor.probe import TOLERANCE, answer, difference_of

#: Answers at once, but for a session on CUDA, which takes its process with it.
FAKE = """
import json, os, signal, sys
from seap_export.common.child_process import answer_requests

def answer(provider):
    if provider == "cuda":
        os.kill(os.getpid(), signal.SIGSEGV)
    if provider == "tensorrt":
        return {"failure": "libnvinfer.so.10: cannot open; install with pip tensorrt, or use --provider cpu"}
    if provider == "webgpu":
        return {"failure": "m.onnx: cannot be loaded: no f16; it is damaged, export again"}
    if provider:
        return {"difference": 0.001, "device": None}
    return {"cuda_version": "13.0", "gpus": [{"name": "NVIDIA T4", "memory_bytes": 16}], "reason": ""}

answer_requests(answer)
"""


def test_providers_that_work_fail_and_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors keep their remedy, but for those that are meant for an artifact; the other remedy is to install again."""
    (tmp_path / "fake_probe.py").write_text(FAKE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "_PROBE", "fake_probe")
    monkeypatch.setattr(module, "_distributions", lambda: {"onnxruntime": "1.30", "onnxruntime-gpu": "1.31.1"})
    result = diagnose()
    again = "run: pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu==1.31.1"
    crash = f"cuda does not work here: the process died of SIGSEGV; {again}"
    assert [(state.name, state.failure) for state in result.providers] == [
        ("cpu", ""),
        ("cuda", crash),
        ("tensorrt", "tensorrt does not work here: libnvinfer.so.10: cannot open; install with pip tensorrt"),
        ("webgpu", "webgpu does not work here: m.onnx: cannot be loaded: no f16; install a driver for the GPU"),
    ]
    assert (result.driver.gpus[0].name, result.driver.cuda_version) == ("NVIDIA T4", "13.0")
    assert result.warnings == [f"onnxruntime and onnxruntime-gpu overwrite each other's files; {again}", crash]
    assert diagnosis(cuda="fails").warnings == []
    assert diagnosis(ONE_GPU, "fails").warnings == ["fails"]


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.node)
def test_numbers_are_compared_with_those_of_numpy(trial: probe.ProbeModel) -> None:
    assert 0 < difference_of(trial, "cpu") < 0.002
    expected = trial.expected()
    for wrong, figure in (2 * TOLERANCE, "0.02"), (np.nan, "nan"):
        expected[-1, -1] += wrong
        with pytest.raises(ArtifactError, match=f"{trial.name} is wrong by {figure}"):
            difference_of(replace(trial, expected=lambda: expected), "cpu")


def test_work_that_fell_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = TRIALS[1]
    given = trial.expected().astype(np.float16)
    monkeypatch.setattr(probe, "TRIALS", [trial])
    monkeypatch.setattr(probe, "open_session", lambda *_: SimpleNamespace(run=lambda *_: [given]))
    for provider, node, failure in (
        ("cpu", "GroupQueryAttention", "attention in float16 runs on the CPU instead"),
        ("cpu", "Shape", None),
        ("cuda", "GroupQueryAttention", None),
    ):
        nodes = {PROVIDERS[provider].ort_name: {node: 1}}
        monkeypatch.setattr(probe, "nodes_by_provider", lambda _, nodes=nodes: nodes)
        assert answer("cuda").get("failure") == failure


@pytest.mark.parametrize(
    ("code", "timeout", "reason"),
    [
        ("import os; os.abort()", 120, "the process died of SIGABRT"),
        ("raise ValueError('one\\ntwo')", 120, "the process failed: two"),
        ("import sys; sys.exit(3)", 120, "the process failed: exit code 3"),
        ("import time; time.sleep(600)", 0.5, "no answer within 0.5 seconds"),
    ],
)
def test_why_a_process_gives_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, timeout: float, reason: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "asked.py").write_text(code, "utf-8")
    process = ChildProcess.of_module("asked")
    with pytest.raises(ChildEnded) as ended:
        process.ask(timeout)
    assert ended.value.reason == reason
    process.close()
