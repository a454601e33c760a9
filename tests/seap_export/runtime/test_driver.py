"""The NVIDIA driver, played by Python functions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from seap_export.runtime.driver import Driver, Gpu, free_gpu_memory, gpu_name, read_driver


def fake_driver(gpus: dict[str, int], **errors: int) -> SimpleNamespace:
    """Functions of libcuda that give these GPUs and, where named, errors."""
    names = list(gpus)
    current: list[int] = []

    def give(pointer: Any, value: int) -> None:
        pointer._obj.value = value

    def name(buffer: Any, size: int, device: Any) -> None:
        buffer.value = names[device.value].encode()[: size - 1]

    functions = {
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

    def function(name: str) -> Any:
        def call(*arguments: Any) -> int:
            if name not in errors:
                functions[name](*arguments)
            return errors.get(name, 0)

        return call

    return SimpleNamespace(**{name: function(name) for name in functions})


def test_gpus_with_their_memory() -> None:
    gpus = {"NVIDIA H100": 80 << 30, "NVIDIA T4": 16 << 30}
    driver = read_driver(lambda _: fake_driver(gpus))
    assert driver == Driver("12.4", (Gpu("NVIDIA H100", 80 << 30), Gpu("NVIDIA T4", 16 << 30)))


def test_the_library_of_the_driver_is_asked_for() -> None:
    asked: list[str] = []
    read_driver(lambda name: asked.append(name) or fake_driver({}))
    assert asked == ["libcuda.so.1"]


@pytest.mark.parametrize(
    ("errors", "version", "reason"),
    [
        ({"cuInit": 100}, "12.4", "GPU (cuInit returned error 100)"),
        ({"cuDriverGetVersion": 999}, None, "(cuDriverGetVersion returned error 999)"),
        ({"cuDeviceGetName": 1}, "12.4", "(cuDeviceGetName returned error 1)"),
    ],
)
def test_a_driver_that_gives_an_error(errors: dict[str, int], version: str | None, reason: str) -> None:
    driver = read_driver(lambda _: fake_driver({"NVIDIA T4": 1}, **errors))
    assert (driver.cuda_version, driver.gpus) == (version, ())
    assert reason in driver.reason


def test_the_first_gpu_is_the_one_that_sessions_run_on() -> None:
    driver = fake_driver({"NVIDIA H100": 80 << 30, "NVIDIA T4": 16 << 30})
    assert gpu_name(lambda _: driver) == "NVIDIA H100"
    assert free_gpu_memory(lambda _: driver) == 20 << 30
    assert gpu_name(lambda _: fake_driver({})) is None
