"""Execution providers of this machine: which options they take, and why one is not available."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime as ort

from seap_export.common.providers import PROVIDERS
from seap_export.errors import EnvironmentFailure, UsageError, refuse_threads
from seap_export.runtime.driver import free_gpu_memory, gpu_name, read_driver
from seap_export.runtime.plugins import plugin_device_name, plugin_devices

_DEVICE = "device_id"
#: Those whose calls can be captured.
_CAPTURING = frozenset(row.device for row in PROVIDERS.values() if row.graph_option is not None)


@dataclass(frozen=True)
class TensorDevice:
    """Where tensors lie.

    Attributes:
        has_addresses: Whether the address of a tensor can be calculated with; else it is a handle.
        largest: Bytes of the largest tensor that can be allocated; None: only memory limits it.
    """

    kind: str
    number: int = 0
    has_addresses: bool = True
    largest: int | None = None

    @property
    def captures(self) -> bool:
        """Whether calls that work on its tensors may be captured, so that none may move."""
        return self.kind in _CAPTURING


CPU = TensorDevice("cpu")


def device_of(session: ort.InferenceSession) -> TensorDevice:
    """Where an opened session keeps the tensors that stay between calls."""
    first = session.get_providers()[0]
    row = next(row for row in PROVIDERS.values() if row.ort_name == first)
    if row.device == "cpu":
        return CPU
    number = int(session.get_provider_options()[first].get(_DEVICE, 0))
    return TensorDevice(row.device, number, row.has_addresses, row.largest_tensor)


def check_session_options(
    provider: str, threads: int | None, provider_options: Mapping[str, str] | None = None
) -> None:
    """Checks options before a session is opened."""
    if provider not in PROVIDERS:
        raise UsageError(f"provider '{provider}' is unknown; known providers: {', '.join(PROVIDERS)}")
    refuse_threads(threads)
    for name, value in (provider_options or {}).items():
        is_captured = "cuda_graph" in name and str(value).lower() not in ("0", "false")
        if is_captured and name != PROVIDERS[provider].graph_option:
            raise UsageError(f"provider option {name} is not supported with provider '{provider}'; leave it out")


def provider_list(provider: str, options: Mapping[str, str] | None = None) -> list[tuple[str, dict[str, str]]]:
    """The provider with its options, followed by its fallbacks, in ONNX Runtime's format."""
    row, values = PROVIDERS[provider], {name: str(value) for name, value in (options or {}).items()}
    same_gpu = {name: value for name, value in values.items() if name == _DEVICE}
    fallbacks = [PROVIDERS[name] for name in row.fallbacks]
    rest = [(other.ort_name, {} if other.device == "cpu" else same_gpu) for other in fallbacks]
    return [(row.ort_name, values), *rest]


def is_too_old(version: str, provider: str) -> bool:
    """Whether a release of ONNX Runtime is older than the oldest that variants run with on a provider."""
    release, oldest = (
        [int(part) for part in re.findall(r"\d+", text)[:2]] for text in (version, PROVIDERS[provider].oldest)
    )
    return release < oldest


def prepare(provider: str) -> str:
    """Registers a plug-in, or preloads the CUDA libraries where possible.

    Returns:
        The first complaint about a library, or "".
    """
    row = PROVIDERS[provider]
    if row.plugin is None and row.ort_name not in ort.get_available_providers():
        raise provider_failure(provider, "this onnxruntime was built without it")
    if is_too_old(ort.__version__, provider):
        package = "onnxruntime" if row.plugin else "onnxruntime-gpu"
        extras = "" if row.plugin else "[cuda,cudnn]"
        raise EnvironmentFailure(
            f"{package} {ort.__version__} is too old for provider '{provider}', which needs {row.oldest}; "
            f'run: pip install "{package}{extras}>={row.oldest}", or use --provider cpu'
        )
    if row.plugin:
        plugin_devices(row)
    if row.plugin or row.device == "cpu":
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    return next((line.strip() for line in printed.getvalue().splitlines() if line.startswith("Failed")), "")


def provider_failure(provider: str, reason: str = "") -> EnvironmentFailure:
    """The error for a provider that is not available; if no reason is given, looks for a missing library."""
    row = PROVIDERS[provider]
    if row.plugin:
        reason = re.sub(r"^.* was false\. ", "", reason)  # the condition, in C++
        return EnvironmentFailure(
            f"{row.label} finds no usable adapter ({reason}); install a driver for the GPU, or use --provider cpu"
        )
    return EnvironmentFailure(
        f"{row.label} execution provider could not be created: {reason or _missing_library(provider)}; install "
        f"with pip {row.libraries}, or use --provider cpu"
    )


def refuse_missing_gpu(provider: str) -> None:
    """Names the GPU that is not there before any library is blamed; a plug-in names it when it is registered."""
    row = PROVIDERS[provider]
    if row.device == "cpu" or row.plugin:
        return
    driver = read_driver()
    if not driver.gpus:
        raise EnvironmentFailure(f"no {row.hardware} for {row.label}, since {driver.reason}; use --provider cpu")


def device_name(provider: str) -> str | None:
    """The name in reports of the GPU that a provider's sessions run on; None on the CPU, or if there is none."""
    row = PROVIDERS[provider]
    if row.plugin:
        try:
            return plugin_device_name(row)
        except EnvironmentFailure:
            return None
    return None if row.device == "cpu" else gpu_name()


def free_device_memory(provider: str) -> int | None:
    """Free bytes of the GPU that sessions of a provider run on; None on the CPU, or if nothing tells."""
    return free_gpu_memory() if PROVIDERS[provider].tells_memory else None


def one_line(error: BaseException) -> str:
    """ONNX Runtime's message as one line, without the source location that it starts with."""
    text = re.sub(r"^.*\.(?:cc|h|cu):\d+ (?:\w+ )?", "", " ".join(str(error).split()))
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)


def _missing_library(provider: str) -> str:
    """The library that the provider is missing, as reported by the dynamic loader."""
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return one_line(error)
    return "its libraries load, but there is no usable NVIDIA GPU or driver"
