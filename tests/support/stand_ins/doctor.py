"""Diagnoses of machines that tests make up."""

from __future__ import annotations

from typing import Any

from seap_export.runtime.doctor import Diagnosis, ProviderCheck, ProviderState
from seap_export.runtime.doctor.libraries import Library
from seap_export.runtime.doctor.machine import HostMachine
from seap_export.runtime.doctor.packages import EXPORT, RUNTIME, Packages
from seap_export.runtime.driver import Driver, Gpu

WORKS = ProviderCheck("", 0.0002)
MACHINE = HostMachine(
    "Linux-6", "Some processor", 2, 64, 24_000_000_000, 20_000_000_000, "3.12.1", "/tmp", 5_000_000_000
)
NO_DRIVER = Driver(None, reason="there is no NVIDIA driver (libcuda.so.1: cannot open shared object file)")
ONE_GPU = Driver("13.1", (Gpu("NVIDIA H100", 80_000_000_000),))


def packages(missing: tuple[str, ...] = (), **changes: Any) -> Packages:
    """All packages in version 1.0 but the missing ones, and onnxruntime-gpu for CUDA 13."""
    versions = {name: None if name in missing else "1.0" for name in (*RUNTIME, *EXPORT)}
    values = {"onnxruntime": {"onnxruntime-gpu": "1.31.1"}, "cuda_version": "13.0", **changes}
    return Packages(versions, **values)


def libraries(missing: tuple[str, ...] = ()) -> tuple[Library, ...]:
    """What CUDA needs, and cuDNN, which it may do without."""
    needed = ("libcublas.so.13", "libcudart.so.13", "libcuda.so.1")
    return (
        *(Library(name, name not in missing) for name in needed),
        Library("libcudnn.so.9", "libcudnn.so.9" not in missing, needed=False),
    )


def diagnosis(driver: Driver = NO_DRIVER, installed: Packages | None = None, **states: ProviderState) -> Diagnosis:
    """CPU works; other providers are as given, or not built in."""
    without = ProviderCheck("this onnxruntime was built without it")
    providers = {
        "cpu": ProviderState("cpu", True, WORKS, WORKS),
        **{name: ProviderState(name, False, without, without) for name in ("cuda", "tensorrt")},
        **states,
    }
    return Diagnosis(MACHINE, installed or packages(), driver, tuple(providers.values()))


def failing(name: str, reason: str, missing: tuple[str, ...] = ()) -> ProviderState:
    """A provider that is built in and does not start."""
    return ProviderState(name, True, ProviderCheck(reason), ProviderCheck(reason), libraries(missing))
