"""Options that several functions and commands share."""

from __future__ import annotations

from seap_export.api.progress import ProgressArgument
from seap_export.api.tasks import Tasks
from seap_export.common.options import option, options
from seap_export.common.providers import WrittenFor
from seap_export.common.values import FilePathOrNone, NameOrPath
from seap_export.pipeline.request.options import ParityOptions


@options
class ModelOptions:
    """The option for the dense model."""

    model: NameOrPath = option(
        "A Hugging Face folder, a .gguf file or a hub id.", kw_only=False, title="Model and tasks", is_argument=True
    )


@options
class TaskOptions(ModelOptions):
    """The options for the dense model and the texts of the tasks."""

    tasks: Tasks = option(
        "Texts of a task: a corpus or a task file, an lm-eval task (gsm8k), a data set of the hub (OWNER/NAME), or a "
        "sample to try with, such as sample:sentiment. Without NAME, that of the source. Repeatable.",
        kw_only=False,
        python="By name, the texts of each task: a list of texts, a list of records (mappings from fields to values), "
        "a `datasets.Dataset`, or a file, a data set of the hub or a task of lm-eval. Or sources as --task accepts "
        'them, such as "gsm8k" or "maths.jsonl".',
        title="Model and tasks",
        metavar="[NAME=]SOURCE",
        name="task",
    )


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
class ComputeOptions:
    """The options for the device, memory and threads of torch."""

    device: str = option(
        "Device that torch computes on.", default="auto", title="Machine", metavar="auto|cpu|cuda|cuda:N"
    )
    memory: str | None = option(
        "Memory for hidden states and weights, such as 8GiB; the rest waits in files.",
        default=None,
        unset="most of the free memory",
        title="Machine",
        rare=True,
        metavar="SIZE",
    )
    threads: int | None = option(
        "Number of threads.", default=None, unset="all cores", title="Machine", metavar="N", least=1
    )


@options
class BatchOptions(ComputeOptions):
    """The options for the device, memory and threads of torch, and the size of batches."""

    batch_tokens: int = option(
        "Number of tokens in a batch; it changes the speed and the memory only.", default=1024, least=1
    )


@options
class ComparisonOptions(ParityOptions):
    """The options for the sizes and the limits of parity."""

    limits: FilePathOrNone = option(
        "A TOML file of limits that replace the defaults, such as max_abs = 0.0005 under [fp32].", default=None
    )


@options
class RunnerOptions:
    """The option for the execution provider of ONNX Runtime."""

    provider: WrittenFor = option("Execution provider of ONNX Runtime that runs the ONNX files.", default="cpu")
