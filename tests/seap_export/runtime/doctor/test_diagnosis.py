"""The diagnosis: of this machine, of processes that die or hang, and of machines that are made up."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort
import pytest
from support.product import Driver
from support.stand_ins.doctor import NO_DRIVER, ONE_GPU, WORKS, diagnosis, failing, packages

from seap_export.errors import EnvironmentFailure
from seap_export.runtime.doctor import Diagnosis, ProviderCheck, ProviderState, diagnose
from seap_export.runtime.doctor import diagnosis as module

#: Answers at once, but for one question.
FAKE = """
import json, os, signal, sys, time
what = sys.argv[1:]
if what == {question}:
    {deed}
answers = {{
    "driver": {{"cuda_version": "13.0", "gpus": [{{"name": "NVIDIA T4", "memory_bytes": 16}}], "reason": ""}},
    "device": {{"name": "a GPU"}},
    "libraries": {{"libraries": [{{"name": "libcublas.so.13", "found": True, "needed": True}}]}},
}}
print(json.dumps(answers.get(what[0], {{"reason": "", "difference": 0.001}})))
"""
CUDA_ADVICE = 'run: pip install "onnxruntime-gpu[cuda,cudnn]==1.31.1"'


def faked(folder: Path, monkeypatch: pytest.MonkeyPatch, question: list[str], deed: str) -> Diagnosis:
    """The diagnosis of a machine with a GPU on which one question goes wrong."""
    (folder / "fake_probe.py").write_text(FAKE.format(question=question, deed=deed), "utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(module, "_PROBE", "fake_probe")
    every = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: every)
    monkeypatch.setattr(module, "is_installed", lambda _: True)
    return diagnose()


def test_all_is_well_where_nothing_goes_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = faked(tmp_path, monkeypatch, [], "pass")
    assert [(provider.name, provider.works, provider.missing) for provider in result.providers] == [
        ("cpu", True, []), ("cuda", True, []), ("tensorrt", True, []), ("webgpu", True, [])
    ]  # fmt: skip
    assert result.provider("cuda").session == ProviderCheck("", 0.001)
    assert [provider.device for provider in result.providers] == [None, None, None, "a GPU"]
    assert (result.driver.gpus[0].name, result.driver.cuda_version, result.warnings) == ("NVIDIA T4", "13.0", [])


def test_a_session_that_takes_its_process_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = faked(tmp_path, monkeypatch, ["session", "cuda"], "os.kill(os.getpid(), signal.SIGSEGV)")
    cuda, reason = result.provider("cuda"), "the process died of SIGSEGV"
    assert (cuda.session, cuda.attention.works, cuda.works) == (ProviderCheck(reason), True, False)
    assert result.provider("cpu").works
    assert result.failure("cuda").startswith(f"cuda does not work here: {reason}; run: pip uninstall")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            diagnosis(cuda=failing("cuda", "it fails", ("libcublas.so.13", "libcuda.so.1"))),
            "no NVIDIA GPU, since there is no NVIDIA driver (libcuda.so.1: cannot open shared object file); if there "
            f"is a GPU, install the NVIDIA driver, then {CUDA_ADVICE}",
        ),
        (diagnosis(ONE_GPU), f"this onnxruntime was built without it; {CUDA_ADVICE}"),
        (
            diagnosis(Driver("12.4", ONE_GPU.gpus), cuda=failing("cuda", "it fails")),
            "onnxruntime was built for CUDA 13.0, the driver runs 12.4; install a newer NVIDIA driver",
        ),
        (
            diagnosis(ONE_GPU, packages(onnxruntime={"onnxruntime-gpu": "1.24.4"}), cuda=failing("cuda", "it is old")),
            'onnxruntime-gpu 1.24.4 is older than 1.31; run: pip install "onnxruntime-gpu[cuda,cudnn]>=1.31"',
        ),
        (
            diagnosis(ONE_GPU, cuda=failing("cuda", "it fails")),
            "it fails; run: pip uninstall -y onnxruntime-gpu && pip install onnxruntime-gpu==1.31.1",
        ),
    ],
    ids=["no GPU", "not built in", "old driver", "old release", "unknown"],
)
def test_why_a_provider_does_not_work(state: Diagnosis, message: str) -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        state.require("cuda")
    assert str(caught.value) == f"cuda does not work here: {message}"


def test_what_is_warned_about() -> None:
    """CUDA only where there is a GPU, TensorRT never, the CPU always."""
    states = {"cuda": failing("cuda", "it fails"), "tensorrt": failing("tensorrt", "it fails")}
    assert diagnosis(NO_DRIVER, **states).warnings == []
    (warning,) = diagnosis(ONE_GPU, **states).warnings
    assert warning.startswith("cuda does not work here: it fails")
    broken = diagnosis(cpu=ProviderState("cpu", True, WORKS, ProviderCheck("attention in float16 is wrong by 0.3")))
    (warning,) = broken.warnings
    assert warning.startswith("cpu does not work here: attention in float16 is wrong by 0.3; run: pip uninstall")
    both = packages(onnxruntime={"onnxruntime": "1.24.4", "onnxruntime-gpu": "1.31.1"})
    (warning,) = diagnosis(installed=both).warnings
    assert "overwrite each other's files" in warning
