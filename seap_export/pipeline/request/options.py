"""Options that commands, the Python API and the pipeline share without conversion."""

from __future__ import annotations

from typing import Literal

from seap_export.common.options import option, options
from seap_export.common.values import CorpusPathOrNone, FilePathOrNone, NameOrPath
from seap_export.pipeline.request.tasks import Tasks

Answers = Literal["data", "model"]
Rounding = Literal["calibrated", "nearest"]
#: The default number of calibration tokens per task, if its texts have as many: docs/research/measurements.md.
CALIBRATION_TOKENS = 65_536


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
        "sample to try with, such as sample:sentiment. FILE:INPUT:ANSWER names the fields of a table whose right "
        "answers are learnt. Without NAME, that of the source. Repeatable.",
        kw_only=False,
        python="By name, the texts of each task: a list of texts, a list of records (mappings from fields to values), "
        "a `datasets.Dataset`, or a file, a data set of the hub or a task of lm-eval. Or sources as --task accepts "
        'them, such as "gsm8k" or "maths.jsonl".',
        title="Model and tasks",
        metavar="[NAME=]SOURCE",
        name="task",
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
class CalibrationSettings:
    """How texts are sampled and run. No held-out text is calibrated on; see `split_samples`."""

    samples: int | None = option(
        "Calibration texts of each task.", default=None, unset="as many as the tokens allow", least=1
    )
    calibration_tokens: int | None = option(
        "Largest number of tokens to calibrate on, for each task.",
        default=None,
        unset="as the recipe says, or all if samples are given",
        title="Size",
        rare=True,
        least=1,
    )
    held_out: int | None = option(
        "Texts of each task that are set aside for the checks.",
        default=None,
        unset="a quarter, 16 at most, or 200 if right answers are learnt",
        least=1,
    )
    seed: int = option("Seed of the split into calibration and held-out texts.", default=0)
    max_length: int = option("Number of tokens after which a text is cut.", default=512, least=2)
    answers: Answers = option(
        "Make the variants from the answers of the data, or let MODEL answer the prompts itself.",
        default="data",
        title="Model and tasks",
        rare=True,
    )
    answer_tokens: int = option("Largest number of tokens in an answer that MODEL writes.", default=256, least=1)

    @property
    def most_tokens(self) -> int | None:
        """Calibration tokens per task at most; None: the number of texts is the only limit."""
        return self.calibration_tokens or (CALIBRATION_TOKENS if self.samples is None else None)


@options
class ParityOptions:
    """How much a written folder is compared with the model it was written from."""

    decode_steps: int = option("Number of tokens decoded with the cache.", default=16, least=1)
    prompts: int = option("Number of held-out prompts compared.", default=4, least=1)
    long_tokens: int = option(
        "Number of tokens in the longest prompt, or as many as the model has positions.", default=2048, least=1
    )


@options
class ComparisonOptions(ParityOptions):
    """The options for the sizes and the limits of parity."""

    limits: FilePathOrNone = option(
        "A TOML file of limits that replace the defaults, such as max_abs = 0.0005 under [fp32].", default=None
    )


@options
class DivergenceOptions:
    """The limit of a variant's divergence."""

    max_kl: float | None = option(
        "Largest mean KL divergence from the dense model, in nats per token; a message says if it is too close to "
        "tell.",
        default=None,
        python="Largest mean KL divergence from the dense model, in nats per token. The mean decides; a reason or a "
        "warning says if it is too close to tell.",
        metavar="NATS",
    )


@options
class EvaluationOptions(DivergenceOptions):
    """How much is measured of a variant's quality, and what it is held to."""

    max_new_tokens: int = option("Largest number of tokens in a generated answer.", default=256)
    limit: int | None = option("Use only the first N texts and questions of each task.", default=None)
    max_length: int = option("Number of tokens after which a text is cut.", default=256)
    batch_size: int = option(
        "Number of questions, or of their choices, in a batch; fewer need less memory.", default=8
    )
    min_accuracy_retained: float | None = option(
        "Smallest accuracy or exact match of any task, as a fraction of the dense model's; a message says if it is "
        "too close to tell.",
        default=None,
        metavar="F",
    )


@options
class VariantOptions:
    """Options of how variants are rounded and measured."""

    rounding: Rounding = option(
        "Round 4-bit weights with the calibration texts, or each to the nearest level.", default="calibrated"
    )
    general_text: CorpusPathOrNone = option(
        "A corpus or a task file; its first texts show how much variants lost outside their tasks.",
        default=None,
        unset="a text of this package",
    )
    min_accuracy_retained: float | None = option(
        "Smallest accuracy on the held-out questions of a task, as a fraction of the dense model's; below it the "
        "export fails, and of the files within it the smallest is recommended.",
        default=None,
        title="Checks",
        rare=True,
        metavar="F",
    )
