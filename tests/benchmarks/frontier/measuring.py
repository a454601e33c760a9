"""Measures files of any tool: their size, how far their predictions are from the dense model's, and their speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from converters.formats import FORMATS, WRITTEN, format_class
from seap_export.errors import InputError
from validation.divergence.dense import DenseReference
from validation.divergence.measure import measure_divergence
from validation.execution import Execution, Say
from validation.speed.engines import Engine, open_engine
from validation.speed.measure import SpeedCell, Timing, measure_speed

#: Files that hold weights, or the graph around them.
_WEIGHTS = (
    "*.onnx",
    "*.onnx*data",
    "*.onnx_data*",
    "*.gguf",
    "openvino_model.*",
    "*.safetensors",
    "*.pte",
    "*.litertlm",
)
#: A folder of what a tool ships, beside the same weights in a form that torch reads; then only its bytes count.
STORED = "stored"
#: Tokens of the prompt that is timed alone, and of that of a request, which an answer follows.
PROMPT, REQUEST, ANSWER = 512, 1000, 100


@dataclass(frozen=True)
class Quality:
    """How far a file's predictions are from the dense model's.

    Attributes:
        kl: Mean KL(dense || file), nats per token.
        kl_stderr: Its standard error over the texts; None for a single text.
        top1: Share of the tokens after which both find the same token most likely.
    """

    kl: float
    kl_stderr: float | None
    top1: float


@dataclass(frozen=True)
class Speed:
    """Medians over all runs.

    Attributes:
        step_s: Seconds of a decode step after the shorter prompt.
        prompt_s: Seconds of a prompt of `PROMPT` tokens.
        request_s: Seconds of a request: a prompt of `REQUEST` tokens and `ANSWER` tokens after it.
    """

    step_s: float
    prompt_s: float
    request_s: float


def runtime_of(folder: Path) -> str:
    """The runtime that runs a folder of this package.

    Raises:
        InputError: It has no model.
    """
    for name in (*WRITTEN, *FORMATS):  # config.json, by which hf is known, may be in other folders, too
        if (folder / FORMATS[name].marker).exists():
            return format_class(name).runtimes[0]
    raise InputError(f"{folder}: there is no model; give a folder such as OUT/VARIANT/onnx")


def weight_bytes(folder: Path) -> int:
    """The bytes of the files that hold weights or the graph around them."""
    shipped = folder / STORED if (folder / STORED).is_dir() else folder
    return sum(path.stat().st_size for path in {path for kind in _WEIGHTS for path in shipped.rglob(kind)})


def measure_quality(
    reference: DenseReference, folder: Path, runtime: str, threads: int, say: Say = lambda line: None
) -> Quality:
    """Compares a file with the dense model on the reference's texts; errors are those of `measure_divergence`."""
    execution = Execution(threads=threads)
    figures = measure_divergence(reference, folder, runtime, execution=execution, on_progress=say)
    return Quality(figures.kl.mean, figures.kl.stderr, figures.top1_agreement)


def measure_speeds(
    files: Mapping[str, tuple[Path, str]],
    vocab_size: int,
    *,
    threads: int,
    runs: int,
    lengths: Sequence[int] = (PROMPT, REQUEST, ANSWER),
    say: Say = lambda line: None,
) -> dict[str, Speed]:
    """Times files in turn, each as its runtime serves it, opened again in each run.

    Args:
        files: The folder and the runtime of each file, by its name.
        vocab_size: Prompts are random tokens below this.
        threads: Threads of each runtime.
        runs: Runs of each file.
        lengths: Tokens of the prompt, of a request's prompt, and of its answer.
        say: Receives a line about each run.

    Returns:
        The speed of each file, but for those that take no text so long.
    """
    prompt, request, answer = lengths
    execution = Execution(threads=threads)

    def opener(folder: Path, runtime: str) -> AbstractContextManager[Engine]:
        return open_engine(runtime, folder, request + answer, execution)

    alone, asked = SpeedCell(1, prompt), SpeedCell(1, request)
    timings = measure_speed(
        {name: partial(opener, *file) for name, file in files.items()},
        (alone, asked),
        vocab_size=vocab_size,
        runs=runs,
        steps=answer,
        on_progress=say,
    )
    return {
        name: Speed(cells[alone].step_s, cells[alone].prefill_s, _request_s(cells[asked]))
        for name, cells in timings.items()
        if alone in cells and asked in cells
    }


def _request_s(timing: Timing) -> float:
    """The median over the runs of the seconds of a prompt and all steps after it."""
    steps = len(timing.steps) // len(timing.prefills)
    return statistics.median(
        first + sum(timing.steps[run * steps : (run + 1) * steps]) for run, first in enumerate(timing.prefills)
    )
