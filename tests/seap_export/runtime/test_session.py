"""Sessions run where they were asked to run, or say in one line why not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.stand_ins.cuda import without_gpu

from seap_export.common.providers import EXACT_INTEGERS
from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError
from seap_export.runtime import providers, session
from seap_export.runtime.session import nodes_by_provider, open_session


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """y = x @ w, with w in a file of its own."""
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    return path


def test_a_cpu_session_runs_with_the_threads_that_were_set(model: Path) -> None:
    opened = open_session(model, "cpu", threads=1)
    assert opened.get_providers() == ["CPUExecutionProvider"]
    assert opened.get_session_options().intra_op_num_threads == 1
    assert opened.run(None, {"x": np.ones((1, 64), np.float32)})[0][0, 0] == 64
    assert nodes_by_provider(opened) in ({"CPUExecutionProvider": {"MatMul": 1}}, None)


@pytest.mark.parametrize(
    ("flags", "is_exact"), [("avx2 avx512f", True), ("avx2 avx512_vnni amx_int8", False), ("avx2 avx_vnni", False)]
)
def test_products_of_integers_are_exact_where_a_processor_lacks_vnni(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: str, is_exact: bool
) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text(f"model name\t: some\nflags\t\t: fpu {flags}\n", "utf-8")
    monkeypatch.setattr(session, "_PROCESSORS", told)
    session._has_vnni.cache_clear()
    options = open_session(model, threads=1).get_session_options()
    session._has_vnni.cache_clear()
    with nullcontext() if is_exact else pytest.raises(RuntimeError):  # it has no such entry
        assert {name: options.get_session_config_entry(name) for name in EXACT_INTEGERS} == EXACT_INTEGERS


@pytest.mark.parametrize(
    ("file", "left", "message"),
    [
        ("model.onnx", None, "no such file"),
        ("model.onnx", b"not a model", "Protobuf parsing failed"),
        ("model.onnx.data", None, "does not exist|cannot open|No such file"),
        ("model.onnx.data", bytes(100), "out of bounds"),
    ],
)
def test_a_damaged_model_is_one_line_and_nothing_on_stderr(
    model: Path, file: str, left: bytes | None, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = model.parent / file
    path.unlink() if left is None else path.write_bytes(left)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_session(model)
    assert "\n" not in str(caught.value)
    assert ".cc:" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@without_gpu
def test_a_provider_without_a_gpu_blames_no_library(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EnvironmentFailure, match=r"\Ano NVIDIA GPU for TensorRT, since .+; use --provider cpu\Z"):
        open_session(model, "tensorrt")
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ONNX Runtime is asked for, on a machine that seems to have a GPU."""
    asked: list[Any] = []

    def create(*_: object, providers: Sequence[Any], **__: object) -> SimpleNamespace:
        asked[:] = providers
        return SimpleNamespace(get_providers=lambda: [providers[0][0]])

    monkeypatch.setattr(session, "refuse_missing_gpu", lambda _: None)
    monkeypatch.setattr(session, "prepare", lambda _: "")
    monkeypatch.setattr("onnxruntime.InferenceSession", create)
    return asked


def test_a_session_that_fell_back_to_the_cpu_is_refused(
    model: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fallen_back = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_, **__: fallen_back)
    monkeypatch.setattr(providers, "_missing_library", lambda _: "libcudnn.so.9 is missing")
    with pytest.raises(EnvironmentFailure, match=r"could not be created: libcudnn\.so\.9 is missing; install"):
        open_session(model, "cuda")


def test_provider_options_reach_onnx_runtime(model: Path, asked: list[Any]) -> None:
    cuda, cpu = ("CUDAExecutionProvider", {"device_id": "1"}), ("CPUExecutionProvider", {})
    open_session(model, "cuda", provider_options={"device_id": "1"})
    assert asked == [cuda, cpu]
    options: Any = {"device_id": 1, "trt_fp16_enable": "1"}
    open_session(model, "tensorrt", provider_options=options)
    assert asked == [("TensorrtExecutionProvider", {"device_id": "1", "trt_fp16_enable": "1"}), cuda, cpu]


@pytest.mark.parametrize(("provider", "name"), [("cpu", "enable_cuda_graph"), ("tensorrt", "trt_cuda_graph_enable")])
def test_graphs_are_captured_on_cuda_only(model: Path, provider: str, name: str) -> None:
    message = f"provider option {name} is not supported with provider '{provider}'; leave it out"
    with pytest.raises(UsageError, match=message):
        open_session(model, provider, provider_options={name: "1"})
