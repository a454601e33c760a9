"""What is said where a provider, its driver or its device is missing, and of what ONNX Runtime fails with."""

from __future__ import annotations

import re
import sys
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure
from seap_export.runtime import plugins
from seap_export.runtime.driver import Driver, Gpu, free_gpu_memory, gpu_name, read_driver
from seap_export.runtime.failures import environment_failure
from seap_export.runtime.providers import device_name, prepare

BEGIN = "[ONNXRuntimeError] :"
NODE = f"{BEGIN} 1 : FAIL : Non-zero status code returned while running"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            f"{BEGIN} 1 : FAIL : Exception during initialization: bfc_arena.cc:360 BFCArena::AllocateRawInternal("
            "size_t, bool) Failed to allocate memory for requested buffer of size 1769472",
            r"\Am: not enough memory \(Failed to allocate memory for .* of size 1769472\); free memory on ",
        ),
        (f"{NODE} MatMul node. Name:'a' Status Message: CUDA failure 2: out of memory ; GPU=0", "not enough memory"),
        (
            f"{NODE} ReduceMin node. Name:'a' Status Message: cuDNN is unavailable for CUDA Execution Provider: "
            "dlopen failed for libcudnn.so: libcudnn.so: cannot open shared object file: No such file or directory",
            r"\Am: cuDNN cannot be loaded \(.*ReduceMin.*\); run: pip install \"onnxruntime-gpu\[cuda,cudnn\]\"\Z",
        ),
        (
            'Parse Failed to parse provider option "device_id": cuda_execution_provider_info.cc:71 operator() Invalid '
            "device ID: 3, must be between 0 (inclusive) and 1 (exclusive).",
            r"no such GPU \(.*ID: 3, must be .*\); choose another device_id\Z",
        ),
        (
            f"{NODE} Add node. Name:'a' Status Message: CUDA failure 209: no kernel image is available for execution "
            "on the device ; GPU=0 ; hostname=h ; file=/a.cu ; line=1 ; expr=cudaGetLastError();",
            r"CUDA failed \(CUDA failure 209: no kernel image [a-z ]+ on the device\); run `seap-export doctor`",
        ),
        (
            f"{NODE} MatMulNBits node. Name:'a' Status Message: BFloat16 MatMulNBits is not supported on cuda device "
            "with compute capability < 8.0",
            r"this GPU is too old for the precision \(.*\); convert the model in fp16",
        ),
        # what is wrong with a graph
        (
            f"{NODE} Reshape node. Name:'a' Status Message: the input tensor cannot be reshaped. Input shape:{{1}}",
            None,
        ),
        (f"{BEGIN} 7 : INVALID_PROTOBUF : Load model from m.onnx failed:Protobuf parsing failed.", None),
        (f"{BEGIN} 1 : FAIL : Fatal error: com.x:Unallocated(-1) is not a registered function/op", None),
    ],
)
def test_what_the_machine_lacks(message: str, expected: str | None) -> None:
    failure = environment_failure(RuntimeError(message), "m")
    assert (failure is None) is (expected is None)
    if failure is not None:
        assert isinstance(failure, EnvironmentFailure)
        assert re.search(str(expected), str(failure))
        assert "\n" not in str(failure)


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
    """The first is the one that sessions run on."""
    gpus = {"NVIDIA H100": 80 << 30, "NVIDIA T4": 16 << 30}
    asked: list[str] = []
    driver = read_driver(lambda name: asked.append(name) or fake_driver(gpus))
    assert driver == Driver("12.4", (Gpu("NVIDIA H100", 80 << 30), Gpu("NVIDIA T4", 16 << 30)))
    assert asked == ["libcuda.so.1"]
    assert gpu_name(lambda _: fake_driver(gpus)) == "NVIDIA H100"
    assert free_gpu_memory(lambda _: fake_driver(gpus)) == 20 << 30
    assert gpu_name(lambda _: fake_driver({})) is None


@pytest.mark.parametrize(
    ("function", "error", "version"), [("cuInit", 100, "12.4"), ("cuDriverGetVersion", 999, None)]
)
def test_a_driver_that_gives_an_error(function: str, error: int, version: str | None) -> None:
    driver = read_driver(lambda _: fake_driver({"NVIDIA T4": 1}, **{function: error}))
    assert (driver.cuda_version, driver.gpus) == (version, ())
    assert f"({function} returned error {error})" in driver.reason


ROW = PROVIDERS["webgpu"]
assert ROW.plugin is not None
PLUGIN = ROW.plugin


def device(kind: str, name: str = ROW.ort_name) -> Any:
    type = getattr(ort.OrtHardwareDeviceType, kind)
    return SimpleNamespace(
        ep_name=name, device=SimpleNamespace(type=type, vendor="AMD", device_id=0x73BF, metadata={})
    )


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


def test_a_gpu_comes_before_software(machine: list[Any]) -> None:
    machine += [device("CPU"), device("GPU")]
    assert [plugins.is_software(each) for each in plugins.plugin_devices(ROW)] == [False, True]
    assert device_name("webgpu") == "AMD GPU 0x73bf"
    assert prepare("webgpu") == ""
    machine[-1].device.metadata["Description"] = "Radeon"
    assert device_name("webgpu") == "Radeon"


def test_no_device(machine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is left out where it was taken."""
    with pytest.raises(EnvironmentFailure, match=f"^no GPU for WebGPU; set .*{PLUGIN.software} to 1 .*provider cpu$"):
        prepare("webgpu")
    assert device_name("webgpu") is None
    monkeypatch.setenv(PLUGIN.software, "1")
    with pytest.raises(EnvironmentFailure, match=r"^no GPU for WebGPU; use --provider cpu$"):
        prepare("webgpu")


def test_a_release_that_does_not_fit(machine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: str) -> None:
        raise RuntimeError("the requested API version\n[33] is not available")

    monkeypatch.setattr(ort, "register_execution_provider_library", refuse)
    with pytest.raises(EnvironmentFailure, match=r"plug does not fit onnxruntime \S+ \(.*version \[33\].*pip install"):
        prepare("webgpu")
    machine.append(device("GPU"))
    with pytest.raises(EnvironmentFailure, match="does not fit"):  # it was not taken for registered
        prepare("webgpu")
