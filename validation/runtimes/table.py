"""The table of all runtimes; a runtime's code is imported only when it is opened or checked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from seap_export.common.extras import installed_versions, require_extra
from seap_export.common.toml_file import either
from seap_export.errors import EnvironmentFailure, UsageError
from validation.execution import Execution, Say
from validation.runtimes.runner import Opening, Purpose, Runner, Runtime
from validation.runtimes.texts import RuntimeTexts

if TYPE_CHECKING:
    from seap_export.model.families import ModelSpec
    from validation.session_memory import Calls

#: The runtime that the others are compared with.
REFERENCE = "torch"
#: Factors of prompts are from docs/research/runtimes.md; those of parity were measured on SmolLM2-135M beside other
#: work, so roughly.
RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": Runtime(
        "validation.runtimes.onnx_runtime.onnx_runner:open_onnx_runtime",
        candidate="validation.parity.candidates.onnx_candidate:OnnxCandidate",
        texts="validation.runtimes.onnx_runtime.texts:OnnxTexts",
        title="ONNX Runtime",
        traces=True,
        has_providers=True,
        shows_rounding=("kl",),
        claim="validation.runtimes.onnx_runtime.onnx_runner:claim_onnx_runtime",
        memory="validation.runtimes.onnx_runtime.onnx_runner:onnx_runtime_memory",
        version="onnxruntime:__version__",
    ),
    "llama.cpp": Runtime(
        "validation.runtimes.llama_cpp.runner:open_llama_cpp",
        extra="gguf",
        arithmetic="validation.runtimes.llama_cpp.runner:llama_arithmetic",
        texts="validation.runtimes.llama_cpp.runner:LlamaTexts",
    ),
    "transformers.js": Runtime(
        "validation.runtimes.node.transformers_js:open_transformers_js",
        check="validation.runtimes.node.package:find_transformers_js",
        texts="validation.runtimes.node.transformers_js:TransformersJsTexts",
    ),
    "litert": Runtime(
        "validation.runtimes.litert_runner:open_litert",
        extra="litert",
        rounds_rows=True,
        context="converters.litert.decoder:cache_length",
        texts="validation.runtimes.litert_runner:LitertTexts",
        shows_rounding=("kl",),
        title="LiteRT",
    ),
    "executorch": Runtime(
        "validation.runtimes.executorch_runner:open_executorch",
        extra="executorch",
        rounds_rows=True,
        context="converters.executorch.decoder:cache_length",
        texts="validation.runtimes.executorch_runner:ExecutorchTexts",
        shows_rounding=("kl",),
        title="ExecuTorch",
    ),
    "openvino": Runtime(
        "validation.runtimes.openvino_runner:open_openvino",
        extra="openvino",
        texts="validation.runtimes.openvino_runner:OpenvinoTexts",
        title="OpenVINO",
        shows_rounding=(),
    ),
    "mlx": Runtime(
        "validation.runtimes.mlx_runner:open_mlx",
        extra="mlx",
        title="MLX",
        # Without Metal, it multiplies with the reference BLAS, and quantised weights as slowly.
    ),
    "vllm": Runtime(
        "validation.runtimes.vllm.runner:open_vllm", check="validation.runtimes.vllm.runner:require_vllm", title="vLLM"
    ),
}


def runtime_row(name: str, *others: str) -> Runtime:
    """The row of a runtime; the error also lists names that have none, but may be given.

    Raises:
        UsageError: There is none of this name.
    """
    if name not in RUNTIMES:
        raise UsageError(f"unknown runtime '{name}'; use {either((*others, *RUNTIMES))}")
    return RUNTIMES[name]


def runtime_title(name: str) -> str:
    """The name of a runtime in texts; errors are those of `runtime_row`."""
    return runtime_row(name).title or name


def with_providers(names: Iterable[str]) -> list[str]:
    """The given runtimes that run on the execution provider that is asked for; others run on the CPU alone."""
    return [name for name in names if name in RUNTIMES and RUNTIMES[name].has_providers]


def runtime_versions(name: str) -> dict[str, str]:
    """The versions of what a runtime consists of, as far as they are known; errors are those of `runtime_row`."""
    row = runtime_row(name)
    versions = {} if row.extra is None else installed_versions(row.extra)
    return versions if row.version is None else {**versions, name: resolve_name(row.version)}


def require_runtime(name: str) -> None:
    """Refuses to go on without a runtime.

    Raises:
        UsageError: There is none of this name.
        EnvironmentFailure: It is not installed.
    """
    row = runtime_row(name)
    require_extra(row.extra, f"the runtime {name}")
    if row.check is not None:
        check: Callable[[], object] = resolve_name(row.check)
        check()


def runtime_lack(name: str) -> str | None:
    """Says why a runtime cannot be used on this machine, and the remedy; None: it is installed."""
    try:
        require_runtime(name)
    except EnvironmentFailure as error:
        return str(error)
    return None


def open_runtime(
    name: str,
    folder: Path,
    execution: Execution = Execution(),  # noqa: B008 - frozen
    purpose: Purpose = "compared",
    calls: Sequence[Calls] = (),
    in_float_of: ModelSpec | None = None,
) -> Runner:
    """Opens a written folder in a runtime.

    Args:
        calls: The size of the calls that ONNX Runtime will run, for which it claims memory; empty: it claims none.
        in_float_of: As of `Opening`, for runtimes that round rows.
    """
    require_runtime(name)
    opener: Callable[[Path, Opening], Runner] = resolve_name(runtime_row(name).opener)
    return opener(folder, Opening(execution, purpose, calls, in_float_of))


def claim_runtime(
    name: str,
    folder: Path,
    calls: Sequence[Calls],
    execution: Execution = Execution(),  # noqa: B008 - frozen
    say: Say = lambda line: None,
    *,
    can_map: bool = True,
) -> None:
    """Says how much memory a runtime will take, and refuses what does not fit; does nothing where that is not known.

    To be called before what takes long and needs no runtime.

    Args:
        calls: The size of the calls that it will run.
        execution: Provider, threads and memory of the run.
        say: Receives a line about the memory.
        can_map: Whether weights may be read from the file if copies of them do not fit, which is slow.

    Raises:
        EnvironmentFailure: The memory that is needed is not free.
        ArtifactError: A file cannot be read.
    """
    claim = runtime_row(name).claim
    if claim is not None:
        resolve_name(claim)(folder, calls, execution, say, can_map=can_map)


def memory_about(name: str, folder: Path, calls: Calls, provider: str) -> int | None:
    """About how many bytes of memory a runtime takes at its peak, the program around it apart; None: not known.

    Args:
        calls: The size of the largest calls.
        provider: The execution provider that the folder was written for.

    Raises:
        ArtifactError: A file cannot be read.
    """
    memory = runtime_row(name).memory
    found: int | None = None if memory is None else resolve_name(memory)(folder, calls, provider)
    return found


def open_texts(name: str, folder: Path) -> RuntimeTexts | None:
    """Opens the tokenizer of a written folder in a runtime; None: it is transformers'."""
    require_runtime(name)
    texts = runtime_row(name).texts
    if texts is None:
        return None
    opener: Callable[[Path], RuntimeTexts] = resolve_name(texts)
    return opener(folder)
