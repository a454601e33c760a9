"""Providers that come as plug-ins: what is said where one, its device or a release that fits is missing."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure
from seap_export.runtime import plugins
from seap_export.runtime.decoding.tensors import empty
from seap_export.runtime.providers import TensorDevice, device_name, prepare

ROW = PROVIDERS["webgpu"]
ROOT = Path(__file__).parents[3]
assert ROW.plugin is not None
PLUGIN = ROW.plugin


def device(kind: str, name: str = ROW.ort_name, **metadata: str) -> Any:
    types = {"CPU": ort.OrtHardwareDeviceType.CPU, "GPU": ort.OrtHardwareDeviceType.GPU}
    hardware = SimpleNamespace(type=types[kind], vendor="AMD", device_id=0x73BF, metadata=metadata)
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


def test_the_extra_has_the_releases_that_the_row_names() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert extras["webgpu"] == [PLUGIN.requirement]


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


def test_no_package(machine: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PLUGIN.module, None)
    with pytest.raises(
        EnvironmentFailure, match=r'WebGPU is not installed .*pip install "onnxruntime-ep-webgpu>=0\.4'
    ):
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


def test_a_tensor_that_no_buffer_holds() -> None:
    """Before ONNX Runtime is asked for one, which ends the process."""
    device = TensorDevice("webgpu", has_addresses=False, largest=ROW.largest_tensor)
    with pytest.raises(EnvironmentFailure, match=r"2\.15 GB .*fewer prompts"):
        empty((1 << 29,), np.float32, device)
