"""ONNX Runtime sessions that run on the requested provider or fail with a one-line error."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from seap_export.common.memory import give_back_memory
from seap_export.common.providers import CUDA_GRAPH, EXACT_INTEGERS, PROVIDERS
from seap_export.errors import ArtifactError, EnvironmentFailure
from seap_export.runtime.failures import environment_failure
from seap_export.runtime.plugins import plugin_devices
from seap_export.runtime.providers import (
    check_session_options,
    one_line,
    prepare,
    provider_failure,
    provider_list,
    refuse_missing_gpu,
)

#: The exceptions that ONNX Runtime raises; they share no specific base class.
ORT_ERRORS: tuple[type[Exception], ...] = (
    *(item for item in vars(state).values() if isinstance(item, type) and issubclass(item, Exception)),
    ValueError,
    RuntimeError,
)
#: The operators that do a decoder's work; running one on another device would move its inputs at every step.
WORKING_OPERATORS = frozenset(
    {
        "Attention",
        "FusedMatMul",
        "GatedRMSNorm",
        "GroupQueryAttention",
        "LayerNormalization",
        "MatMul",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
#: Every failure also raises an exception; the log would only repeat it on stderr.
_LOG_NOTHING_BUT_FATAL = 4
#: An ONNX model whose only node is y = -x, of one float32.
_PROBE = bytes.fromhex(
    "08083a320a0b0a017812017922034e65671201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a080801"
    "12040a02080142040a001011"
)
#: ONNX Runtime's message about an operator in a precision that no provider of a session has.
_LACKS_OPERATOR = "Could not find an implementation"
#: Session option: the folder of the external data of a model given as bytes.
_DATA_FOLDER = "session.model_external_initializers_file_folder_path"
#: Linux says here what processors can do.
_PROCESSORS = Path("/proc/cpuinfo")
#: Session option: kernels take the weights as they are, and the data file stays mapped.
_NO_COPIES = "session.disable_prepacking"
#: Environment variable: an existing folder, into which ONNX Runtime writes a profile of every session.
_PROFILE_FOLDER = "SEAP_EXPORT_PROFILE"


def available_threads() -> int:
    """The number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def open_session(
    model: Path,
    provider: str = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    *,
    graph: bytes | None = None,
    mapped: bool = False,
) -> ort.InferenceSession:
    """Opens an ONNX model on one execution provider.

    A CUDA session also lists the CPU provider, which ONNX Runtime needs for shape arithmetic and for operators that
    CUDA lacks. A TensorRT session lists both. A plug-in gets the first of its devices. `nodes_by_provider` shows what
    runs where.

    Args:
        model: The .onnx file, with its external data next to it.
        provider: A key of `PROVIDERS`.
        threads: Threads within an operator; None: all cores available to this process. Operators run one at a time.
        provider_options: Options of that provider, as ONNX Runtime documents them.
        graph: A modified copy of the file's content to run instead, with the same external data.
        mapped: Whether the CPU's kernels read weights from the mapped data file, instead of copying them into a layout
            that is faster. int8 and int4 take many times as long without copies.

    Returns:
        The session; `get_session_options().intra_op_num_threads` is the number of threads.

    Raises:
        UsageError: The provider is unknown, `threads` is not positive or a provider option is not supported.
        EnvironmentFailure: The session does not run on that provider.
        ArtifactError: ONNX Runtime cannot load the model.
    """
    check_session_options(provider, threads, provider_options)
    if not model.is_file():
        raise ArtifactError(f"{model}: no such file; export again")
    options = _options(threads or available_threads())
    if mapped:
        options.add_session_config_entry(_NO_COPIES, "1")
    return _open(model, provider, options, provider_options, graph)


def probe(provider: str) -> None:
    """Opens a session with a single node on the provider.

    Raises:
        UsageError: The provider is unknown.
        EnvironmentFailure: The provider is not available on this machine.
    """
    check_session_options(provider, None)
    if provider != "cpu":
        _open(Path("probe.onnx"), provider, _options(1), None, _PROBE)


def nodes_by_provider(session: ort.InferenceSession) -> dict[str, dict[str, int]] | None:
    """The number of nodes that each provider runs, by operator; None if ONNX Runtime is too old to report it."""
    assignments = getattr(session, "get_provider_graph_assignment_info", None)
    if assignments is None:
        return None
    counts: dict[str, Counter[str]] = {}
    for part in assignments():
        counts.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {provider: dict(sorted(counts[provider].items())) for provider in sorted(counts)}


def _open(
    model: Path,
    provider: str,
    options: ort.SessionOptions,
    provider_options: Mapping[str, str] | None,
    graph: bytes | None,
) -> ort.InferenceSession:
    """A session that runs on the provider, and not on the CPU in its place."""
    refuse_missing_gpu(provider)
    complaint = prepare(provider)
    session = _create(model, provider, options, provider_options, graph)
    if session.get_providers()[0] != PROVIDERS[provider].ort_name:
        raise provider_failure(provider, complaint)
    return session


def _create(
    model: Path,
    provider: str,
    options: ort.SessionOptions,
    provider_options: Mapping[str, str] | None,
    graph: bytes | None,
) -> ort.InferenceSession:
    ort.set_default_logger_severity(_LOG_NOTHING_BUT_FATAL)
    row = PROVIDERS[provider]
    providers = None if row.plugin else provider_list(provider, provider_options)
    if graph is not None:
        options.add_session_config_entry(_DATA_FOLDER, str(model.parent.absolute()))
    try:
        if row.plugin:
            values = {name: str(value) for name, value in (provider_options or {}).items()}
            options.add_provider_for_devices(plugin_devices(row)[:1], values)
        # Without enable_fallback=False, ONNX Runtime replaces a failing provider by the CPU and prints a notice.
        session = ort.InferenceSession(graph or str(model), options, providers=providers, enable_fallback=False)
        give_back_memory()  # weights of few bits are unpacked in several steps, whose results take many times the file
        return session
    except ORT_ERRORS as error:
        if lack := environment_failure(error, f"{model}: ONNX Runtime cannot load it"):
            raise lack from error
        reason = one_line(error)
        if "graph capture" in reason:
            raise EnvironmentFailure(
                f"{model}: cannot be captured as a CUDA graph, because parts of it would run on the CPU; convert it "
                f"with --provider cuda, or set the provider option {CUDA_GRAPH} to 0"
            ) from error
        if _LACKS_OPERATOR in reason:
            probe(provider)  # raises, with the reason, if the provider is not there at all
            raise (ArtifactError if provider == "cpu" else EnvironmentFailure)(
                f"{model}: the {provider} provider of this machine cannot run it: {reason}; convert the model with "
                "another --precision or --provider"
            ) from error
        if provider == "tensorrt" and "install TensorRT" in reason:
            raise provider_failure(provider) from error  # the loader names the library
        if row.plugin and any(word in reason for word in row.error_words):
            raise provider_failure(provider, reason) from error
        if provider != "cpu" and any(word in reason for row in PROVIDERS.values() for word in row.error_words):
            raise provider_failure(provider, reason) from error
        raise ArtifactError(f"{model}: ONNX Runtime cannot load it: {reason}; it is damaged, export again") from error


@cache
def _has_vnni() -> bool:
    """Whether the processor is known to add up products of integers in 32 bits; false where nothing tells."""
    try:
        flags = _PROCESSORS.read_text("ascii", errors="replace").split()
    except OSError:
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_NOTHING_BUT_FATAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # planning memory for every new shape costs more than it saves
    if not _has_vnni():
        for name, value in EXACT_INTEGERS.items():
            options.add_session_config_entry(name, value)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if folder := os.environ.get(_PROFILE_FOLDER):
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "session")
    return options
