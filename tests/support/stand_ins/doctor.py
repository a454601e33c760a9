"""Diagnoses of machines that tests make up."""

from __future__ import annotations

from typing import Any

from seap_export.runtime.doctor import Diagnosis, ProviderState
from seap_export.runtime.doctor.machine import HostMachine
from seap_export.runtime.driver import Driver, Gpu

MACHINE = HostMachine("Linux-6", "Some processor", 2, 64, 20_000_000_000, "3.12.1", "/tmp", 5_000_000_000)
NO_DRIVER = Driver(None, reason="there is no NVIDIA driver (libcuda.so.1: cannot open shared object file)")
ONE_GPU = Driver("13.1", (Gpu("NVIDIA H100", 80_000_000_000),))


def diagnosis(driver: Driver = NO_DRIVER, cuda: str = "", **changes: Any) -> Diagnosis:
    """CPU works, TensorRT too; CUDA fails as given, or works."""
    providers = (
        *(ProviderState(name, difference=0.0002) for name in ("cpu", "tensorrt")),
        ProviderState("cuda", cuda, None if cuda else 0.0002),
    )
    values: dict[str, Any] = {
        "packages": {"numpy": "2.0"},
        "missing": [],
        "onnxruntime": {"onnxruntime-gpu": "1.31.1"},
    }
    return Diagnosis(MACHINE, driver=driver, providers=providers, **{**values, **changes})
