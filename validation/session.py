"""ONNX Runtime sessions that run where they were asked to run, or fail."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["PROVIDERS", "available_threads", "nodes_by_provider", "one_line", "open_session", "ort_errors"]

#: What a user asks for, and ONNX Runtime's name for it.
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: Every failure reaches us as an exception too; the log would only repeat it on stderr.
_LOG_NOTHING_BUT_FATAL = 4


def available_threads() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def open_session(model: Path, provider: str = "cpu", threads: int | None = None) -> ort.InferenceSession:
    """Opens an ONNX model on one execution provider.

    A CUDA session also lists the CPU provider, which ONNX Runtime needs for shape arithmetic and falls back
    to for operators that CUDA lacks; `nodes_by_provider` says how many.

    Args:
        model: The .onnx file; its external data lies beside it.
        provider: "cpu" or "cuda".
        threads: Threads within an operator; None: all cores this process may use. Operators run one by one.

    Returns:
        The session; `get_session_options().intra_op_num_threads` is the thread count that was set.

    Raises:
        UsageError: The provider is unknown or `threads` is not positive.
        EnvironmentFailure: The session does not run on that provider.
        ArtifactError: ONNX Runtime cannot load the model.
    """
    if provider not in PROVIDERS:
        raise UsageError(f"provider '{provider}' is unknown; known providers: {', '.join(PROVIDERS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file")
    complaint = _prepare_cuda() if provider == "cuda" else ""
    session = _create(model, provider, threads or available_threads())
    obtained = session.get_providers()[0]
    if obtained != PROVIDERS[provider]:
        raise _cuda_failure(complaint or _why_no_cuda())
    return session


def nodes_by_provider(session: ort.InferenceSession) -> dict[str, dict[str, int]] | None:
    """How many nodes of each operator each execution provider runs; None where ONNX Runtime is too old to tell."""
    assignments = getattr(session, "get_provider_graph_assignment_info", None)
    if assignments is None:
        return None
    counts: dict[str, Counter[str]] = {}
    for part in assignments():
        counts.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {provider: dict(sorted(counts[provider].items())) for provider in sorted(counts)}


def ort_errors() -> tuple[type[Exception], ...]:
    """The exceptions that ONNX Runtime raises; they share no base class of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)]
    return (*own, ValueError, RuntimeError)


def one_line(error: BaseException) -> str:
    """ONNX Runtime's message without line breaks and without the source lines it starts with."""
    text = " ".join(str(error).split())
    text = re.sub(r"^.*\.(?:cc|h|cu):\d+ (?:\w+ )?", "", text)
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)


def _create(model: Path, provider: str, threads: int) -> ort.InferenceSession:
    import onnxruntime as ort

    ort.set_default_logger_severity(_LOG_NOTHING_BUT_FATAL)
    try:
        # Without enable_fallback=False a failing provider is replaced by the CPU after a printed notice.
        return ort.InferenceSession(
            str(model), _options(threads), providers=_provider_list(provider), enable_fallback=False
        )
    except ort_errors() as error:
        if "CUDA" in str(error) and provider == "cuda":
            raise _cuda_failure(one_line(error)) from error
        raise ArtifactError(f"{model}: ONNX Runtime cannot load it: {one_line(error)}") from error


def _options(threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = _LOG_NOTHING_BUT_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _provider_list(provider: str) -> list[str]:
    return list(dict.fromkeys((PROVIDERS[provider], PROVIDERS["cpu"])))


def _prepare_cuda() -> str:
    """Loads CUDA's libraries where they can be found; returns the first complaint about one, or ""."""
    import onnxruntime as ort

    if PROVIDERS["cuda"] not in ort.get_available_providers():
        raise _cuda_failure("this onnxruntime was built without it")
    if not hasattr(ort, "preload_dlls"):
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ort.preload_dlls()
    return next((line.strip() for line in printed.getvalue().splitlines() if line.startswith("Failed")), "")


def _why_no_cuda() -> str:
    """The library that the CUDA provider lacks, as the dynamic loader names it."""
    import onnxruntime as ort

    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return one_line(error)
    return "its libraries load, but there is no NVIDIA GPU or driver that they can use"


def _cuda_failure(reason: str) -> EnvironmentFailure:
    return EnvironmentFailure(
        f"CUDA execution provider could not be created: {reason}; install onnxruntime-gpu with the CUDA and cuDNN "
        "libraries of its release, or use --provider cpu"
    )
