"""Options that several functions and commands share, and the pipeline knows nothing of."""

from __future__ import annotations

from seap_export.api.progress import ProgressArgument
from seap_export.common.options import option, options
from seap_export.common.providers import WrittenFor


@options
class RunOptions:
    """Options of whether existing files are replaced, and what is printed."""

    force: bool = option(
        "Replace files that were made from other inputs.", default=False, title="Output", of_a_run=True
    )
    progress: ProgressArgument = option(
        "Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.",
        default=False,
        of_python=True,
    )


@options
class RunnerOptions:
    """The option for the execution provider of ONNX Runtime."""

    provider: WrittenFor = option("Execution provider of ONNX Runtime that runs the ONNX files.", default="cpu")
