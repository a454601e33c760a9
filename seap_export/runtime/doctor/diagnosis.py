"""Finds out what this machine can run by trying it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from seap_export.common.child_process import ChildEnded, ChildProcess
from seap_export.common.extras import installed_versions, missing_packages
from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure
from seap_export.runtime.doctor.machine import HostMachine, read_machine
from seap_export.runtime.driver import Driver, Gpu

#: Long, because a first start of CUDA may compile kernels and TensorRT always does.
_TIMEOUT_SECONDS = 120.0
_PROBE = "seap_export.runtime.doctor.probe"
_ONNXRUNTIME = "onnxruntime"
#: Remedies of errors that help here, too; others are meant for an artifact.
_REMEDY = re.compile(
    r"; ((?:install|set the environment|run: pip|use a newer) (?:(?!; ).)+?)(?:,? or use --provider cpu)?$"
)
_FOR_ARTIFACTS = re.compile(r"; [^;]*$")


@dataclass(frozen=True)
class ProviderState:
    """A matrix product and attention in float16, run on one execution provider.

    Attributes:
        name: A key of `PROVIDERS`.
        failure: Why it does not work and how to fix it, in one line; "" if it does.
        difference: Largest difference from the result in float64; None if there is no result.
        device: What reports call the GPU that it ran on, if any.
    """

    name: str
    failure: str = ""
    difference: float | None = None
    device: str | None = None

    @property
    def works(self) -> bool:
        """Whether variants run on this provider."""
        return not self.failure


@dataclass(frozen=True)
class Diagnosis:
    """The complete diagnosis of a machine.

    Attributes:
        packages: The versions of the packages that seap-export needs.
        missing: Those that are not installed, as requirements.
        onnxruntime: The installed distributions of ONNX Runtime, with their versions.
    """

    machine: HostMachine
    packages: Mapping[str, str]
    missing: Sequence[str]
    onnxruntime: Mapping[str, str]
    driver: Driver
    providers: tuple[ProviderState, ...]

    def provider(self, name: str) -> ProviderState:
        return next(provider for provider in self.providers if provider.name == name)

    def failure(self, name: str) -> str:
        """Why a provider does not work and how to fix it, in one line; "" if it works."""
        return self.provider(name).failure

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
        lines = [
            failure for name in ("cpu", *(["cuda"] if self.driver.gpus else [])) if (failure := self.failure(name))
        ]
        if len(self.onnxruntime) > 1:
            names = " and ".join(sorted(self.onnxruntime))
            lines.insert(0, f"{names} overwrite each other's files; {_reinstall(self.onnxruntime)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        providers = {state.name: {"works": state.works, **asdict(state)} for state in self.providers}
        return {
            "schema": "seap-export/doctor/1", **asdict(self), "providers": providers, "warnings": self.warnings
        }  # fmt: skip


def diagnose(timeout: float = _TIMEOUT_SECONDS, on_progress: Callable[[str], None] = lambda line: None) -> Diagnosis:
    """Tries each provider in a separate process.

    Args:
        timeout: Seconds to wait for each of them.
        on_progress: Called with one line before each of them.
    """
    on_progress("asking the NVIDIA driver")
    answer = _ask("", timeout)
    driver = Driver(None, reason=f"the NVIDIA driver cannot be queried: {answer.get('failure')}")
    if "failure" not in answer:
        driver = Driver(answer["cuda_version"], tuple(Gpu(**gpu) for gpu in answer["gpus"]), answer["reason"])
    distributions = _distributions()
    states = []
    for name in PROVIDERS:
        on_progress(f"trying {name}")
        answer = _ask(name, timeout)
        if "failure" in answer:
            answer["failure"] = _with_remedy(name, answer["failure"], distributions)
        states.append(ProviderState(name, **answer))
    packages = {name: version for name, version in installed_versions("").items() if _ONNXRUNTIME not in name}
    missing = [requirement for requirement in missing_packages("") if _ONNXRUNTIME not in requirement]
    return Diagnosis(read_machine(), packages, missing, distributions, driver, tuple(states))


def _ask(provider: str, timeout: float) -> dict[str, Any]:
    try:
        process = ChildProcess.of_module(_PROBE)
    except OSError as error:
        return {"failure": f"no process could be started ({error.strerror})"}
    try:
        return process.ask(timeout, provider=provider)
    except ChildEnded as ended:
        return {"failure": ended.reason}
    finally:
        process.close()


def _with_remedy(name: str, reason: str, distributions: Mapping[str, str]) -> str:
    """The failure of a provider, with the remedy of the error if it has one that helps here."""
    remedy = "install a driver for the GPU" if PROVIDERS[name].plugin else _reinstall(distributions)
    if said := _REMEDY.search(reason):
        remedy = said[1]
    elif reason.endswith("; use --provider cpu"):
        remedy = "use a machine with one and its driver"
    return f"{name} does not work here: {_FOR_ARTIFACTS.sub('', reason)}; {remedy}"


def _reinstall(distributions: Mapping[str, str]) -> str:
    """How to repair the installation of ONNX Runtime, of which one distribution is kept: that with CUDA, if any."""
    names = sorted(distributions) or [_ONNXRUNTIME]
    pin = f"=={distributions[names[-1]]}" if distributions else ""
    return f"run: pip uninstall -y {' '.join(names)} && pip install {names[-1]}{pin}"


def _distributions() -> dict[str, str]:
    return {
        distribution.metadata["Name"]: distribution.version
        for distribution in metadata.distributions()
        if _ONNXRUNTIME in (distribution.read_text("top_level.txt") or "").split()
    }
