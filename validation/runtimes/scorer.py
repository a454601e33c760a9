"""Opens what scores texts: a written folder in any runtime, with the logits of all tokens of a prompt."""

from __future__ import annotations

from pathlib import Path

from converters.onnx.graph.all_logits import with_all_logits
from seap_export.runtime.session import open_session
from validation.runtimes.onnx_runtime.onnx_runner import OnnxRunner
from validation.runtimes.runner import Runner
from validation.runtimes.table import open_runner

__all__ = ["open_scorer"]


def open_scorer(runtime: str, folder: Path, threads: int, provider: str = "cpu", *, mapped: bool = False) -> Runner:
    """Opens a folder; a graph that returns the logits of its last token alone is changed to return all.

    Args:
        runtime: What runs it.
        folder: What was written.
        threads: Threads of the runtime.
        provider: ONNX Runtime's execution provider.
        mapped: For ONNX Runtime, see `claim_memory`.

    Raises:
        UsageError: There is no such runtime.
        ArtifactError: The folder cannot be loaded.
        EnvironmentFailure: The runtime, its provider or memory is missing.
    """
    if runtime != OnnxRunner.runtime:
        return open_runner(runtime, folder, threads)
    model = folder / "model.onnx"
    return OnnxRunner(open_session(model, provider, threads, graph=with_all_logits(model), mapped=mapped))
