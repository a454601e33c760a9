"""ONNX Runtime sessions for the runtime: on the provider that was asked for, or an error of one line."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from seap_export.errors import ArtifactError, EnvironmentFailure, UsageError

__all__ = ["OnnxModel", "check_session_options"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: Every failure reaches us as an exception too; the log would only repeat it on stderr.
_LOG_NOTHING_BUT_FATAL = 4
#: ONNX Runtime's exceptions share no base class of their own.
_ERRORS: tuple[type[Exception], ...] = (
    *(item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)),
    ValueError,
    RuntimeError,
)


class OnnxModel:
    """A graph in a session of its own.

    Attributes:
        inputs: Name, and type and shape as ONNX Runtime gives them, of every input.
        outputs: The same of every output.
    """

    def __init__(self, path: Path, provider: str = "cpu", threads: int | None = None) -> None:
        """Opens the graph.

        Args:
            path: The .onnx file; its external data lies beside it.
            provider: "cpu" or "cuda".
            threads: Threads within an operator; None: all cores this process may use.

        Raises:
            UsageError: The provider is unknown or `threads` is not positive.
            ArtifactError: The file is missing or damaged.
            EnvironmentFailure: There is no such provider here.
        """
        check_session_options(provider, threads)
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file; export again")
        self._path = path
        self._session = _open(path, provider, threads)
        self.inputs: dict[str, Any] = {item.name: item for item in self._session.get_inputs()}
        self.outputs: dict[str, Any] = {item.name: item for item in self._session.get_outputs()}

    def run(self, outputs: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[np.floating]]:
        """The named outputs.

        Raises:
            ArtifactError: The graph does not run on these inputs.
            EnvironmentFailure: There is not enough memory.
        """
        try:
            return self._session.run(list(outputs), dict(feeds))
        except _ERRORS as error:
            reason = _one_line(error)
            if "alloc" in reason:
                raise EnvironmentFailure(f"{self._path}: not enough memory to run it: {reason}") from error
            raise ArtifactError(f"{self._path}: does not run: {reason}") from error


def check_session_options(provider: str, threads: int | None) -> None:
    """Refuses what no session could be opened with.

    Raises:
        UsageError: The provider is unknown or `threads` is not positive.
    """
    if provider not in _PROVIDERS:
        raise UsageError(f"provider '{provider}' is unknown; known providers: {', '.join(_PROVIDERS)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")


def _open(path: Path, provider: str, threads: int | None) -> ort.InferenceSession:
    wanted = _PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise EnvironmentFailure(f"this onnxruntime has no {wanted}; install onnxruntime-gpu, or use provider 'cpu'")
    if provider == "cuda" and hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    ort.set_default_logger_severity(_LOG_NOTHING_BUT_FATAL)
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_NOTHING_BUT_FATAL
    options.intra_op_num_threads = threads or _available_threads()
    options.inter_op_num_threads = 1
    providers = list(dict.fromkeys((wanted, _PROVIDERS["cpu"])))
    try:
        # Without enable_fallback=False a failing provider is replaced by the CPU after a printed notice.
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=False)
    except _ERRORS as error:
        reason = _one_line(error)
        if provider == "cuda" and "CUDA" in reason:
            raise EnvironmentFailure(f"{wanted} could not be created: {reason}; use provider 'cpu'") from error
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {reason}; it is damaged, export again") from error
    if session.get_providers()[0] != wanted:
        raise EnvironmentFailure(f"{wanted} could not be created; use provider 'cpu'")
    return session


def _available_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _one_line(error: BaseException) -> str:
    """ONNX Runtime's message without line breaks and without the source lines it starts with."""
    text = re.sub(r"^.*\.(?:cc|h|cu):\d+ (?:\w+ )?", "", " ".join(str(error).split()))
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
