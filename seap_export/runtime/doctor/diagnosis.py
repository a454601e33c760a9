"""Finds out what this machine can run by trying it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import onnxruntime as ort

from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure
from seap_export.runtime.doctor.isolated import IsolatedResult, ask
from seap_export.runtime.doctor.libraries import Library
from seap_export.runtime.doctor.machine import HostMachine, read_machine
from seap_export.runtime.doctor.packages import (
    GPU_DISTRIBUTION,
    Packages,
    missing_remedy,
    read_packages,
    reinstall_remedy,
    upgrade_remedy,
)
from seap_export.runtime.driver import Driver, Gpu
from seap_export.runtime.plugins import is_installed

SCHEMA = "seap-export/doctor/1"
#: Long, because a first start of CUDA may compile kernels and TensorRT always does.
_TIMEOUT_SECONDS = 120.0
_PROBE = "seap_export.runtime.doctor.probe"
_DRIVER = "install a driver for the GPU"


@dataclass(frozen=True)
class ProviderCheck:
    """One model run on one provider.

    Attributes:
        reason: Why it does not work; "" if it does.
        difference: Largest difference from the result in float64; None if there is no result.
    """

    reason: str = ""
    difference: float | None = None

    @property
    def works(self) -> bool:
        """Whether the model ran on the right provider and gave the right numbers."""
        return not self.reason


@dataclass(frozen=True)
class ProviderState:
    """One execution provider.

    Attributes:
        name: A key of `PROVIDERS`.
        built_in: Whether this ONNX Runtime has it, or its plug-in is installed.
        device: What reports call the GPU that it runs on; None: none, or the driver tells it.
        session: A matrix product in float16.
        attention: GroupQueryAttention in float16.
        libraries: The NVIDIA libraries it is linked with; empty if that cannot be determined.
        libraries_failure: Why the libraries could not be loaded; "" if there was no failure.
    """

    name: str
    built_in: bool
    session: ProviderCheck
    attention: ProviderCheck
    libraries: tuple[Library, ...] = ()
    libraries_failure: str = ""
    device: str | None = None

    @property
    def works(self) -> bool:
        """Whether variants run on this provider."""
        return self.session.works and self.attention.works

    @property
    def missing(self) -> list[str]:
        """Required libraries that cannot be loaded."""
        return [library.name for library in self.libraries if library.needed and not library.found]

    @property
    def missing_for_some(self) -> list[str]:
        """Libraries that cannot be loaded and that only some variants need."""
        return [library.name for library in self.libraries if not library.needed and not library.found]


@dataclass(frozen=True)
class Diagnosis:
    """The complete diagnosis of a machine."""

    machine: HostMachine
    packages: Packages
    driver: Driver
    providers: tuple[ProviderState, ...]

    def provider(self, name: str) -> ProviderState:
        return next(provider for provider in self.providers if provider.name == name)

    def failure(self, name: str) -> str:
        """Why a provider does not work and how to fix it, in one line; "" if it works."""
        provider = self.provider(name)
        if provider.works:
            return ""
        reason, remedy = self._reason_and_remedy(provider)
        return f"{name} does not work here: {reason}; {remedy}"

    def require(self, name: str) -> None:
        """Checks that a provider works.

        Raises:
            EnvironmentFailure: The provider does not work on this machine.
        """
        if failure := self.failure(name):
            raise EnvironmentFailure(failure)

    @property
    def warnings(self) -> list[str]:
        """Faults and how to fix them, one line each; a machine without a GPU does not need CUDA."""
        expected = ["cpu", *(["cuda"] if self.driver.gpus else [])]
        lines = [*self.packages.warnings, *(failure for name in expected if (failure := self.failure(name)))]
        cuda = self.provider("cuda")
        if cuda.works and (lacking := cuda.missing_for_some):
            lines.append(
                f"{', '.join(lacking)} is missing: variants exported for the CPU or with --dialect standard may not "
                f"run on cuda; {missing_remedy(lacking, self.packages)}"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "machine": asdict(self.machine),
            "packages": dict(self.packages.versions),
            "onnxruntime": {
                "distributions": dict(self.packages.onnxruntime),
                "cuda_version": self.packages.cuda_version,
                "providers": [PROVIDERS[provider.name].ort_name for provider in self.providers if provider.built_in],
            },
            "driver": {**asdict(self.driver), "gpus": [asdict(gpu) for gpu in self.driver.gpus]},
            "providers": {provider.name: self._provider_json(provider) for provider in self.providers},
            "warnings": self.warnings,
        }

    def _provider_json(self, provider: ProviderState) -> dict[str, Any]:
        checks = {"session": provider.session, "attention": provider.attention}
        return {
            "works": provider.works,
            "built_in": provider.built_in,
            **{name: {"works": check.works, **asdict(check)} for name, check in checks.items()},
            "device": provider.device,
            "libraries": [asdict(library) for library in provider.libraries],
            "failure": self.failure(provider.name) or None,
        }

    def _reason_and_remedy(self, provider: ProviderState) -> tuple[str, str]:
        failed = provider.libraries_failure or provider.session.reason or provider.attention.reason
        if provider.name == "cpu":
            return failed, reinstall_remedy(self.packages)
        if plugin := PROVIDERS[provider.name].plugin:
            if not provider.built_in:
                return "its plug-in is not installed", f'run: pip install "{plugin.requirement}"'
            return failed, f"set {plugin.software}=1 to allow one in software" if "no GPU" in failed else _DRIVER
        if not self.driver.gpus:
            lacks = provider.missing or not provider.built_in
            with_gpu = f"if there is a GPU, {missing_remedy(provider.missing, self.packages)}" if lacks else ""
            return f"no NVIDIA GPU, since {self.driver.reason}", with_gpu or "use a machine with one and its driver"
        if not provider.built_in:
            return "this onnxruntime was built without it", missing_remedy([], self.packages)
        if self.packages.is_too_old_for_cuda:
            version = self.packages.onnxruntime[GPU_DISTRIBUTION]
            return f"{GPU_DISTRIBUTION} {version} is older than {PROVIDERS[provider.name].oldest}", upgrade_remedy()
        if provider.missing:
            return f"missing {', '.join(provider.missing)}", missing_remedy(provider.missing, self.packages)
        if self._driver_is_too_old:
            built, runs = self.packages.cuda_version, self.driver.cuda_version
            return f"onnxruntime was built for CUDA {built}, the driver runs {runs}", "install a newer NVIDIA driver"
        return failed, reinstall_remedy(self.packages)

    @property
    def _driver_is_too_old(self) -> bool:
        """A driver also runs code built for an older CUDA release, and for any minor release of the same major one."""
        built, runs = self.packages.cuda_version, self.driver.cuda_version
        return bool(built and runs) and int(str(built).partition(".")[0]) > int(str(runs).partition(".")[0])


def diagnose(timeout: float = _TIMEOUT_SECONDS, on_progress: Callable[[str], None] = lambda line: None) -> Diagnosis:
    """Tries each provider and library in a separate process.

    Args:
        timeout: Seconds to wait for each of them.
        on_progress: Called with one line before each of them.
    """
    on_progress("asking the NVIDIA driver")
    driver = _driver(ask(_PROBE, ["driver"], timeout))
    providers = tuple(_provider(name, timeout, on_progress) for name in PROVIDERS)
    return Diagnosis(read_machine(), read_packages(), driver, providers)


def _driver(answer: IsolatedResult) -> Driver:
    if answer.failure:
        return Driver(None, reason=f"the NVIDIA driver cannot be queried: {answer.failure}")
    gpus = tuple(Gpu(**gpu) for gpu in answer.value["gpus"])
    return Driver(answer.value["cuda_version"], gpus, answer.value["reason"])


def _provider(name: str, timeout: float, on_progress: Callable[[str], None]) -> ProviderState:
    row = PROVIDERS[name]
    if row.plugin is not None and not is_installed(row.plugin):
        without = ProviderCheck("its plug-in is not installed")
        return ProviderState(name, False, without, without)
    if row.plugin is None and row.ort_name not in ort.get_available_providers():
        without = ProviderCheck("this onnxruntime was built without it")
        return ProviderState(name, False, without, without)
    on_progress(f"trying {name}")
    libraries = ask(_PROBE, ["libraries", name], timeout) if row.library_files else IsolatedResult()
    device = ask(_PROBE, ["device", name], timeout).value.get("name") if row.plugin else None
    session, attention = (_check(ask(_PROBE, [what, name], timeout)) for what in ("session", "attention"))
    linked = tuple(Library(**values) for values in libraries.value.get("libraries", []))
    return ProviderState(name, True, session, attention, linked, libraries.failure, device)


def _check(answer: IsolatedResult) -> ProviderCheck:
    return ProviderCheck(answer.failure) if answer.failure else ProviderCheck(**answer.value)
