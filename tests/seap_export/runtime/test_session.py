"""Sessions run where they were asked to run, or say in one line what the machine lacks."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.stand_ins.cuda import without_gpu

from seap_export.common.providers import EXACT_INTEGERS, PROVIDERS
from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError
from seap_export.runtime import plugins, providers, session
from seap_export.runtime.driver import Driver, Gpu, free_gpu_memory, gpu_name, read_driver
from seap_export.runtime.failures import environment_failure
from seap_export.runtime.providers import device_name, prepare
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
    assert (opened.get_providers(), opened.get_session_options().intra_op_num_threads) == (["CPUExecutionProvider"], 1)
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
    with pytest.raises(ArtifactError, match=rf"\A((?!\.cc:)[^\n])*({message})((?!\.cc:)[^\n])*\Z"):
        open_session(model)
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


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "bfc_arena.cc:360 AllocateRawInternal(size_t) Failed to allocate memory for requested buffer of size 9",
            r"not enough memory \(Failed to allocate memory for requested buffer of size 9\); free memory on ",
        ),
        ("MatMul node. Name:'a' Status Message: CUDA failure 2: out of memory ; GPU=0", "not enough memory"),
        (
            "ReduceMin node. Name:'a' Status Message: cuDNN is unavailable: dlopen failed for libcudnn.so",
            r"cuDNN cannot be loaded \(.*ReduceMin.*\); run: pip install \"onnxruntime-gpu\[cuda,cudnn\]\"\Z",
        ),
        (
            "Invalid device ID: 3, must be between 0 and 1",
            r"no such GPU \(.*ID: 3, must.*\); choose another device_id\Z",
        ),
        (
            "Add node. Status Message: CUDA failure 209: no kernel image is available on the device ; GPU=0",
            r"CUDA failed \(CUDA failure 209: no kernel image [a-z ]+ on the device\); run `seap-export doctor`",
        ),
        ("BFloat16 is not supported on cuda device with compute capability < 8.0", "this GPU is too old .* in fp16"),
        # what is wrong with a graph
        ("Reshape node. Name:'a' Status Message: the input tensor cannot be reshaped. Input shape:{1}", None),
        ("INVALID_PROTOBUF : Load model from m.onnx failed:Protobuf parsing failed.", None),
        ("FAIL : Fatal error: com.x:Unallocated(-1) is not a registered function/op", None),
    ],
)
def test_what_the_machine_lacks(message: str, expected: str | None) -> None:
    error = RuntimeError(f"[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running {message}")
    failure = environment_failure(error, "m")
    assert (failure is None) is (expected is None)
    if failure is not None:
        assert re.search(rf"\Am: [^\n]*{expected}", str(failure))


def fake_driver(gpus: dict[str, int], **errors: int) -> SimpleNamespace:
    """Functions of libcuda that give these GPUs and, where named, errors."""
    names, current = list(gpus), list[int]()

    def give(pointer: Any, value: int) -> None:
        pointer._obj.value = value

    def name(buffer: Any, size: int, device: Any) -> None:
        buffer.value = names[device.value].encode()[: size - 1]

    functions: dict[str, Any] = {
        "cuInit": lambda flags: None,
        "cuDriverGetVersion": lambda pointer: give(pointer, 12040),
        "cuDeviceGetCount": lambda pointer: give(pointer, len(gpus)),
        "cuDeviceGet": lambda pointer, index: give(pointer, index),
        "cuDeviceGetName": name,
        "cuDeviceTotalMem_v2": lambda pointer, device: give(pointer, gpus[names[device.value]]),
        "cuDevicePrimaryCtxRetain": lambda pointer, device: give(pointer, 7),
        "cuCtxSetCurrent": lambda context: current.append(context.value),
        "cuMemGetInfo_v2": lambda free, total: give(free, gpus[names[0]] // 4 if current == [7] else 0),
    }
    calls = {key: lambda *values, key=key: errors.get(key) or functions[key](*values) or 0 for key in functions}
    return SimpleNamespace(**calls)


def test_gpus_with_their_memory() -> None:
    """The first is the one that sessions run on; a driver may give an error."""
    gpus = {"NVIDIA H100": 80 << 30, "NVIDIA T4": 16 << 30}
    asked: list[str] = []
    driver = read_driver(lambda name: asked.append(name) or fake_driver(gpus))
    assert driver == Driver("12.4", (Gpu("NVIDIA H100", 80 << 30), Gpu("NVIDIA T4", 16 << 30)))
    assert asked == ["libcuda.so.1"]
    assert gpu_name(lambda _: fake_driver(gpus)) == "NVIDIA H100"
    assert free_gpu_memory(lambda _: fake_driver(gpus)) == 20 << 30
    assert gpu_name(lambda _: fake_driver({})) is None
    for function, version in (("cuInit", "12.4"), ("cuDriverGetVersion", None)):
        driver = read_driver(lambda _, function=function: fake_driver(gpus, **{function: 100}))
        assert (driver.cuda_version, driver.gpus) == (version, ())
        assert f"({function} returned error 100)" in driver.reason


ROW = PROVIDERS["webgpu"]
assert ROW.plugin is not None
PLUGIN = ROW.plugin


def device(kind: str, name: str = ROW.ort_name) -> Any:
    type = getattr(ort.OrtHardwareDeviceType, kind)
    hardware = SimpleNamespace(type=type, vendor="AMD", device_id=0x73BF, metadata={})
    return SimpleNamespace(ep_name=name, device=hardware)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The devices of a machine with a plug-in that is not registered yet; to be added to."""
    devices = [device("CPU", "CPUExecutionProvider")]
    module = SimpleNamespace(get_library_path=lambda: "plug/lib.so")
    monkeypatch.setitem(sys.modules, PLUGIN.module, module)
    monkeypatch.setattr(plugins, "_registered", set())
    monkeypatch.setattr(ort, "register_execution_provider_library", lambda *_: None)
    monkeypatch.setattr(ort, "get_ep_devices", lambda: devices)
    monkeypatch.delenv(PLUGIN.software, raising=False)
    return devices


def test_a_gpu_comes_before_software(machine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the remedy is left out if it was taken."""
    with pytest.raises(EnvironmentFailure, match=f"^no GPU for WebGPU; set .*{PLUGIN.software} to 1 .*provider cpu$"):
        prepare("webgpu")
    monkeypatch.setenv(PLUGIN.software, "1")
    with pytest.raises(EnvironmentFailure, match=r"^no GPU for WebGPU; use --provider cpu$"):
        prepare("webgpu")
    assert device_name("webgpu") is None
    machine += [device("CPU"), device("GPU")]
    assert [plugins.is_software(each) for each in plugins.plugin_devices(ROW)] == [False, True]
    assert (device_name("webgpu"), prepare("webgpu")) == ("AMD GPU 0x73bf", "")
    machine[-1].device.metadata["Description"] = "Radeon"
    assert device_name("webgpu") == "Radeon"


def test_a_release_that_does_not_fit(machine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise RuntimeError("the requested API version\n[33] is not available")

    monkeypatch.setattr(ort, "register_execution_provider_library", refuse)
    with pytest.raises(EnvironmentFailure, match=r"plug does not fit onnxruntime \S+ \(.*version \[33\].*pip install"):
        prepare("webgpu")
    machine.append(device("GPU"))
    with pytest.raises(EnvironmentFailure, match="does not fit"):  # it was not taken for registered
        prepare("webgpu")
