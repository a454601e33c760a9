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

#: Earlier releases run attention of the standard dialect on the CPU, and norms overflow in float16.
OLDEST_FOR_CUDA = "1.31"
_DEVICE = "device_id"


@dataclass(frozen=True)
class TensorDevice:
    """Where tensors lie.

    Attributes:
        kind: "cpu" or "cuda".
        number: Which GPU.
    """

    kind: str
    number: int = 0


CPU = TensorDevice("cpu")


def device_of(session: ort.InferenceSession) -> TensorDevice:
    """Where an opened session keeps the tensors that stay between calls."""
    first = session.get_providers()[0]
    device = next(row.device for row in PROVIDERS.values() if row.ort_name == first)
    return CPU if device == "cpu" else TensorDevice(device, int(session.get_provider_options()[first][_DEVICE]))


def check_session_options(
    provider: str, threads: int | None, provider_options: Mapping[str, str] | None = None
) -> None:
    """Checks options before a session is opened.

    Raises:
        UsageError: The provider is unknown, `threads` is out of range, or a provider option would cause wrong results.
    """
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


def is_too_old_for_cuda(version: str) -> bool:
    """Whether a release of ONNX Runtime is older than the oldest that variants run with on CUDA and TensorRT."""
    release, oldest = ([int(part) for part in re.findall(r"\d+", text)[:2]] for text in (version, OLDEST_FOR_CUDA))
    return release < oldest


def prepare(provider: str) -> str:
    """Preloads the CUDA libraries where possible; returns the first complaint about one, or "".

    Raises:
        EnvironmentFailure: The installed onnxruntime lacks this provider, or is too old for it.
    """
    if PROVIDERS[provider].ort_name not in ort.get_available_providers():
        raise provider_failure(provider, "this onnxruntime was built without it")
    if PROVIDERS[provider].device == "cpu":
        return ""
    if is_too_old_for_cuda(ort.__version__):
        raise EnvironmentFailure(
            f"onnxruntime-gpu {ort.__version__} is too old for provider '{provider}', which needs {OLDEST_FOR_CUDA}; "
            f'run: pip install "onnxruntime-gpu[cuda,cudnn]>={OLDEST_FOR_CUDA}", or use --provider cpu'
        )
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    return next((line.strip() for line in printed.getvalue().splitlines() if line.startswith("Failed")), "")


def provider_failure(provider: str, reason: str = "") -> EnvironmentFailure:
    """The error for a provider that is not available; if no reason is given, looks for a missing library."""
    row = PROVIDERS[provider]
    return EnvironmentFailure(
        f"{row.label} execution provider could not be created: {reason or _missing_library(provider)}; install "
        f"onnxruntime-gpu with the {row.libraries} libraries of its release, or use --provider cpu"
    )


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
