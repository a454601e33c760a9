from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError
from validation import session
from validation.onnx_runner import OnnxRunner
from validation.session import available_threads, nodes_by_provider, one_line, open_session


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


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


def test_all_usable_cores_by_default(model: Path) -> None:
    assert open_session(model).get_session_options().intra_op_num_threads == available_threads()


def test_unknown_provider_and_thread_count(model: Path) -> None:
    with pytest.raises(UsageError, match="known providers: cpu, cuda"):
        open_session(model, "tpu")
    with pytest.raises(UsageError, match="at least 1"):
        open_session(model, threads=0)


def _remove(model: Path) -> None:
    model.unlink()


def _corrupt(model: Path) -> None:
    model.write_bytes(b"not a model")


def _lose_data(model: Path) -> None:
    (model.parent / "model.onnx.data").unlink()


def _cut_data(model: Path) -> None:
    data = model.parent / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove, "no such file"),
        (_corrupt, "Protobuf parsing failed"),
        (_lose_data, "does not exist|cannot open|No such file"),
        (_cut_data, "out of bounds"),
    ],
)
def test_a_damaged_model_is_one_line_and_nothing_on_stderr(
    model: Path, damage: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    damage(model)
    with pytest.raises(ArtifactError, match=message) as caught:
        open_session(model)
    assert "\n" not in str(caught.value)
    assert ".cc:" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(_has_gpu(), reason="has a GPU")
def test_cuda_without_a_gpu_names_what_is_missing(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EnvironmentFailure, match=r"^CUDA execution provider could not be created: .*--provider cpu$"):
        open_session(model, "cuda")
    assert capfd.readouterr() == ("", "")


def test_a_session_that_fell_back_to_the_cpu_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fallen_back = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(session, "_prepare_cuda", lambda: "")
    monkeypatch.setattr(session, "_create", lambda *_: fallen_back)
    monkeypatch.setattr(session, "_why_no_cuda", lambda: "libcudnn.so.9 is missing")
    with pytest.raises(EnvironmentFailure, match=r"could not be created: libcudnn\.so\.9 is missing; install"):
        open_session(model, "cuda")


def test_an_onnxruntime_without_cuda_is_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EnvironmentFailure, match="built without it; install onnxruntime-gpu"):
        open_session(model, "cuda")


def test_a_graph_that_is_no_decoder_is_refused(model: Path) -> None:
    with pytest.raises(ArtifactError, match=r"inputs are not those of a decoder with a KV cache: \['x'\]"):
        OnnxRunner(open_session(model))


def test_one_line_drops_onnx_runtimes_own_source_lines() -> None:
    error = RuntimeError("[ONNXRuntimeError] : 1 : FAIL : tensor.cc:18 GetData Initializer: w\nis out of bounds")
    assert one_line(error) == "Initializer: w is out of bounds"
    assert one_line(RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load failed.")) == "Load failed."
