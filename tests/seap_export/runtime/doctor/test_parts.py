"""What a diagnosis is made of: the machine, packages, NVIDIA's libraries, models that are run, and their processes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.stand_ins.doctor import packages

from seap_export.common.providers import PROVIDERS
from seap_export.runtime.doctor import probe
from seap_export.runtime.doctor.isolated import IsolatedResult, ask
from seap_export.runtime.doctor.libraries import library_names, linked_libraries
from seap_export.runtime.doctor.machine import read_machine
from seap_export.runtime.doctor.models import TRIALS
from seap_export.runtime.doctor.packages import missing_remedy, read_packages
from seap_export.runtime.doctor.probe import TOLERANCE, answer, try_model

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


def test_two_distributions_of_onnx_runtime_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second = "onnxruntime" if "onnxruntime-gpu" in read_packages().onnxruntime else "onnxruntime-gpu"
    for name, package in ((second, "onnxruntime"), ("onnxruntime-genai", "onnxruntime_genai")):  # which does no harm
        folder = tmp_path / f"{name.replace('-', '_')}-1.20.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.20.0\n", "utf-8")
        (folder / "top_level.txt").write_text(f"{package}\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    found = read_packages()
    assert set(found.onnxruntime) == {"onnxruntime", "onnxruntime-gpu"}
    assert found.onnxruntime[second] == "1.20.0"
    (warning,) = found.warnings
    assert warning.startswith("onnxruntime and onnxruntime-gpu overwrite each other's files; run: pip uninstall -y ")


def test_remedies() -> None:
    cuda = 'run: pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"'
    tensorrt = 'run: pip install "tensorrt-cu13==10.*", then put its folder tensorrt_libs on LD_LIBRARY_PATH'
    assert missing_remedy(["libcublas.so.13", "libcudart.so.13"], packages()) == cuda
    every = ["libnvinfer.so.10", "libcudart.so.13", "libcuda.so.1"]
    assert missing_remedy(every, packages()) == f"install the NVIDIA driver, then {cuda}, then {tensorrt}"
