"""The diagnosis of machines, packages, libraries and models, and of processes that die or hang."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from support.product import Driver
from support.stand_ins.doctor import ONE_GPU, diagnosis, failing, packages

from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure
from seap_export.runtime.doctor import Diagnosis, ProviderCheck, diagnose, probe
from seap_export.runtime.doctor import diagnosis as module
from seap_export.runtime.doctor.isolated import IsolatedResult, ask
from seap_export.runtime.doctor.libraries import library_names, linked_libraries
from seap_export.runtime.doctor.machine import read_machine
from seap_export.runtime.doctor.models import TRIALS
from seap_export.runtime.doctor.packages import missing_remedy
from seap_export.runtime.doctor.probe import TOLERANCE, answer, try_model

#: Answers at once, but for a session on CUDA, which takes its process with it.
FAKE = """
import json, os, signal, sys
what = sys.argv[1:]
if what == ["session", "cuda"]:
    os.kill(os.getpid(), signal.SIGSEGV)
answers = {
    "driver": {"cuda_version": "13.0", "gpus": [{"name": "NVIDIA T4", "memory_bytes": 16}], "reason": ""},
    "device": {"name": "a GPU"},
    "libraries": {"libraries": [{"name": "libcublas.so.13", "found": True, "needed": True}]},
}
print(json.dumps(answers.get(what[0], {"reason": "", "difference": 0.001})))
"""
CUDA_ADVICE = re.escape('run: pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"')
OLD, FAILING = packages(onnxruntime={"onnxruntime-gpu": "1.24.4"}), failing("cuda", "it fails")


def test_a_session_that_takes_its_process_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_probe.py").write_text(FAKE, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "_PROBE", "fake_probe")
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: every)
    monkeypatch.setattr(module, "is_installed", lambda _: True)
    result = diagnose()
    others = [each for each in result.providers if each.name != "cuda"]
    assert [(each.name, each.works, each.missing, each.device) for each in others] == [
        ("cpu", True, [], None), ("tensorrt", True, [], None), ("webgpu", True, [], "a GPU")
    ]  # fmt: skip
    cuda, reason = result.provider("cuda"), "the process died of SIGSEGV"
    assert (cuda.session, cuda.attention, cuda.works) == (ProviderCheck(reason), ProviderCheck("", 0.001), False)
    assert result.failure("cuda").startswith(f"cuda does not work here: {reason}; run: pip uninstall")
    assert (result.driver.gpus[0].name, result.driver.cuda_version) == ("NVIDIA T4", "13.0")
    assert result.warnings == [result.failure("cuda")]


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            diagnosis(cuda=failing("cuda", "it fails", ("libcublas.so.13", "libcuda.so.1"))),
            f"no NVIDIA GPU, since .*; if there is a GPU, install the NVIDIA driver, then {CUDA_ADVICE}",
        ),
        (diagnosis(ONE_GPU), f"this onnxruntime was built without it; {CUDA_ADVICE}"),
        (
            diagnosis(Driver("12.4", ONE_GPU.gpus), cuda=FAILING),
            "onnxruntime was built for CUDA 13.0, the driver runs 12.4; install a newer NVIDIA driver",
        ),
        (
            diagnosis(ONE_GPU, OLD, cuda=FAILING),
            "onnxruntime-gpu 1.24.4 is older than 1.31; .*>=1.31",
        ),
        (
            diagnosis(ONE_GPU, cuda=FAILING),
            "it fails; run: pip uninstall -y onnxruntime-gpu && .*==1.31.1",
        ),
    ],
    ids=["no GPU", "not built in", "old driver", "old release", "unknown"],
)
def test_why_a_provider_does_not_work(state: Diagnosis, message: str) -> None:
    with pytest.raises(EnvironmentFailure, match=f"\\Acuda does not work here: {message}"):
        state.require("cuda")


GB = 1_000_000 * 1024


@pytest.mark.parametrize("what", list(TRIALS))
def test_numbers_are_compared_with_those_of_numpy(what: str) -> None:
    verdict = answer(what, "cpu")
    assert verdict["reason"] == ""
    assert 0 < verdict["difference"] < 0.002
    trial = TRIALS[what]
    expected = trial.expected()
    expected[-1, -1] += 2 * TOLERANCE
    verdict = try_model(replace(trial, expected=lambda: expected), "cpu")
    assert verdict["reason"] == f"{trial.name} is wrong by 0.02"
    assert verdict["difference"] == pytest.approx(2 * TOLERANCE, rel=0.1)


def test_work_that_fell_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    given = TRIALS["attention"].expected().astype(np.float16)
    monkeypatch.setattr(probe, "open_session", lambda *_: SimpleNamespace(run=lambda *_: [given]))
    for provider, node, reason in (
        ("cpu", "GroupQueryAttention", "attention in float16 runs on the CPU instead"),
        ("cpu", "Shape", ""),
        ("cuda", "GroupQueryAttention", ""),
    ):
        nodes = {PROVIDERS[provider].ort_name: {node: 1}}
        monkeypatch.setattr(probe, "nodes_by_provider", lambda _, nodes=nodes: nodes)
        assert try_model(TRIALS["attention"], "cuda")["reason"] == reason


@pytest.mark.parametrize(
    ("code", "timeout", "answer"),
    [
        ('import sys; print("noise {"); print(\'{"a": "%s"}\' % sys.argv[1:])', 120, IsolatedResult({"a": "['x']"})),
        ("import os; print('{}', flush=True); os.abort()", 120, IsolatedResult(failure="the process died of SIGABRT")),
        ("raise ValueError('one\\ntwo')", 120, IsolatedResult(failure="the process failed: two")),
        ("print('[1]')", 120, IsolatedResult(failure="the process gave no answer")),
        ("import time; time.sleep(600)", 0.5, IsolatedResult(failure="no answer within 0.5 seconds")),
    ],
)
def test_the_last_line_of_a_process_is_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, timeout: float, answer: IsolatedResult
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "asked.py").write_text(code, "utf-8")
    assert ask("asked", ["x"], timeout) == answer


@pytest.mark.parametrize(
    ("most", "used", "expected"),
    [
        (None, 0, (8 * GB, 5 * GB)),
        (4 * GB, GB, (4 * GB, 3 * GB)),
        (7 * GB, GB, (7 * GB, 5 * GB)),
        (4 * GB, 9 * GB, (4 * GB, 0)),
        ("max", GB, (8 * GB, 5 * GB)),
    ],
)
def test_a_container_may_have_less_memory(tmp_path: Path, most: object, used: int, expected: tuple[int, int]) -> None:
    files = {
        "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags: a",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 5000000 kB",
    }
    files |= {"sys/fs/cgroup/memory.max": f"{most}", "sys/fs/cgroup/memory.current": f"{used}"} if most else {}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n", "utf-8")
    machine = read_machine(tmp_path)
    assert machine.processor == "Some CPU @ 2 GHz"
    assert (machine.memory_bytes, machine.free_memory_bytes) == expected


def elf(needed: Sequence[str], unused: str = "libcudart.so.12") -> bytes:
    """A shared library's header, one segment to load, a dynamic section; a name that nothing refers to, too."""
    offset, base = 64, 0x40000  # where the segment lies in the file, and where it is mapped
    table = b"\0" + b"".join(name.encode() + b"\0" for name in (*needed, unused))
    offsets = [table.index(name.encode() + b"\0") for name in needed]
    start = 64 + 2 * 56
    entries = [*((1, position) for position in offsets), (14, 1), (5, base + start - offset), (0, 0), (1, 1)]
    dynamic = b"".join(struct.pack("<qQ", *entry) for entry in entries)
    at = start + len(table)
    size = at + len(dynamic) - offset
    sizes = struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, *[0] * 3)
    load = struct.pack("<IIQQQQQQ", 1, 5, offset, base, base, size, size, 4096)
    section = struct.pack("<IIQQQQQQ", 2, 6, at, base + at - offset, 0, len(dynamic), len(dynamic), 8)
    return b"\x7fELF\x02\x01\x01" + bytes(9) + sizes + load + section + table + dynamic


def test_nvidias_libraries_of_a_provider(tmp_path: Path) -> None:
    """TensorRT stands before CUDA; cuDNN is optional where CUDA is not linked with it; a file may be cut off."""
    (tmp_path / "cuda").write_bytes(elf(["libcublasLt.so.13", "libcuda.so.1", "libc.so.6"]))
    (tmp_path / "tensorrt").write_bytes(elf(["libnvinfer.so.10", "libcudnn.so.9", "libm.so.6"]))
    optional = {"libcublasLt.so.13": True, "libcuda.so.1": True, "libcudnn.so.9": False}
    assert library_names("cuda", tmp_path.joinpath) == optional
    needed = ["libnvinfer.so.10", "libcudnn.so.9", "libcublasLt.so.13", "libcuda.so.1"]
    assert library_names("tensorrt", tmp_path.joinpath) == dict.fromkeys(needed, True)
    assert library_names("cpu", tmp_path.joinpath) == {}
    whole = elf(["libcublas.so.13"])
    for length in range(len(whole)):
        (tmp_path / "cut").write_bytes(whole[:length])
        assert linked_libraries(tmp_path / "cut") in ([], ["libcublas.so.13"])


def test_remedies() -> None:
    cuda = 'run: pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"'
    tensorrt = 'run: pip install "tensorrt-cu13==10.*", then put its folder tensorrt_libs on LD_LIBRARY_PATH'
    assert missing_remedy(["libcublas.so.13", "libcudart.so.13"], packages()) == cuda
    every = ["libnvinfer.so.10", "libcudart.so.13", "libcuda.so.1"]
    assert missing_remedy(every, packages()) == f"install the NVIDIA driver, then {cuda}, then {tensorrt}"
