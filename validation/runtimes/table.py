"""The runtimes there are. A runtime's code is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from pkgutil import resolve_name

from seap_export.errors import EnvironmentFailure, UsageError
from seap_export.extras import require_extra
from seap_export.toml_file import either
from validation.runtimes.runner import Runner, Runtime

__all__ = [
    "REFERENCE",
    "RUNTIMES",
    "open_runner",
    "open_server",
    "require_runtime",
    "runtime_lack",
    "runtime_row",
    "runtime_title",
]


#: What the others are compared with.
REFERENCE = "torch"
RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(
        "validation.runtimes.onnx_runtime.onnx_runner:open_onnx_runner",
        candidate="validation.parity.onnx_candidate:OnnxCandidate",
        title="ONNX Runtime",
        traces=True,
    ),
    "llama.cpp": Runtime(
        "validation.runtimes.llama_cpp.runner:open_llama_cpp",
        extra="gguf",
        candidate="validation.parity.llama_candidate:LlamaCandidate",
        server="validation.runtimes.llama_cpp.runner:open_llama_cpp_server",
    ),
    "transformers.js": Runtime(
        "validation.runtimes.node.transformers_js:open_transformers_js",
        check="validation.runtimes.node.package:require_transformers_js",
        server="validation.runtimes.node.transformers_js:open_transformers_js_server",
    ),
    "openvino": Runtime(
        "validation.runtimes.openvino_runner:OpenvinoRunner",
        extra="openvino",
        server="validation.runtimes.openvino_runner:open_openvino_server",
    ),
    "mlx": Runtime("validation.runtimes.mlx_runner:open_mlx_runner", extra="mlx"),
    "vllm": Runtime(
        "validation.runtimes.vllm.runner:open_vllm_runner", check="validation.runtimes.vllm.runner:require_vllm"
    ),
}


def runtime_row(name: str) -> Runtime:
    """The row of a runtime.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime '{name}'; use {either(RUNTIMES)}")
    return RUNTIMES[name]


def runtime_title(name: str) -> str:
    """The name of a runtime in texts; errors are those of `runtime_row`."""
    return runtime_row(name).title or name


def require_runtime(name: str) -> None:
    """Refuses to go on without a runtime.

    Raises:
        UsageError: There is none of this name.
        EnvironmentFailure: It is not installed.
    """
    row = runtime_row(name)
    require_extra(row.extra, f"the runtime {name}")
    if row.check is not None:
        check: Callable[[], None] = resolve_name(row.check)
        check()


def runtime_lack(name: str) -> str | None:
    """What a runtime lacks on this machine, with the remedy; None: it is installed."""
    try:
        require_runtime(name)
    except EnvironmentFailure as error:
        return str(error)
    return None


def open_runner(name: str, folder: Path, threads: int) -> Runner:
    """Opens a written folder in a runtime.

    Raises:
        UsageError, EnvironmentFailure: As for `require_runtime`.
        ArtifactError: The folder cannot be loaded.
    """
    require_runtime(name)
    opener: Callable[[Path, int], Runner] = resolve_name(runtime_row(name).opener)
    return opener(folder, threads)


def open_server(name: str, folder: Path, threads: int) -> Runner:
    """Opens a written folder as its runtime serves it, to be timed; errors are those of `open_runner`."""
    require_runtime(name)
    row = runtime_row(name)
    opener: Callable[[Path, int], Runner] = resolve_name(row.server or row.opener)
    return opener(folder, threads)
