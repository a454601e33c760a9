"""The parity step: chooses prompts and folders, and writes the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from seap_export.activations.statistics import Calibration
from seap_export.corpus import Task
from seap_export.errors import ArtifactError
from seap_export.pipeline.settings import ParitySettings, calibration_step
from seap_export.plan.plan import read_plan
from validation.parity import run_parity
from validation.report import ParityReport

__all__ = ["calibrations_of", "check_parity", "held_out_prompts", "prompts_of", "write_report"]


def held_out_prompts(calibrations: Sequence[Calibration], number: int) -> list[str]:
    """Up to `number` prompts for parity, taken from the tasks in turn.

    These are the prompts of held-out texts, or the completion of a text without a prompt.
    """
    turns = zip_longest(*(calibration.record.held_out for calibration in calibrations))
    samples = [sample for turn in turns for sample in turn if sample is not None]
    return [sample["prompt"] or sample["completion"] for sample in samples[:number]]


def prompts_of(variant: Path, corpus: Path | None, number: int) -> list[str]:
    """The first prompts of a corpus, or the held-out prompts of the variant's task.

    Raises:
        ArtifactError: The folder is not a variant, or the statistics of its task are missing.
        InputError: The corpus cannot be read.
    """
    if corpus is not None:
        return [sample.prompt for sample in islice(Task("prompts", corpus).texts(), number)]
    return held_out_prompts(calibrations_of(variant), number)


def calibrations_of(variant: Path) -> list[Calibration]:
    """The statistics of the tasks that a variant was made for, which `export` keeps in the same output folder.

    Raises:
        ArtifactError: The folder is not a variant, or the statistics of a task are missing.
    """
    _refuse_incomplete(variant, "plan.json")
    folders = [variant.absolute().parent / calibration_step(task) for task in read_plan(variant / "plan.json").weights]
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError(f"{variant}: no held-out texts at {folder}; give prompts with --prompt-file")
    return [Calibration(folder) for folder in folders]


def check_parity(
    variant: Path, prompts: list[str], settings: ParitySettings, on_progress: Callable[[str], None] | None = None
) -> ParityReport:
    """Runs the comparison for a variant's folder.

    Raises:
        UsageError, InputError, ArtifactError, EnvironmentFailure, ParityFailure: As for
            `validation.parity.run_parity`; a failed comparison is in the report.
    """
    _refuse_incomplete(variant, "hf", "onnx")
    return run_parity(
        variant / "hf",
        variant / "onnx",
        prompts,
        provider=settings.provider,
        threads=settings.threads,
        decode_steps=settings.decode_steps,
        limits=settings.limits,
        long_tokens=settings.long_tokens,
        on_progress=on_progress,
    )


def write_report(report: ParityReport, path: Path) -> None:
    """Writes the report as JSON."""
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n", "utf-8", newline="\n")


def _refuse_incomplete(variant: Path, *parts: str) -> None:
    if not variant.is_dir():
        raise ArtifactError(f"{variant}: no such folder; give a variant's folder, such as OUT/TASK-0.2")
    for part in parts:
        if not (variant / part).exists():
            remedy = "give --prompt-file" if part == "plan.json" else "give a variant's folder, such as OUT/TASK-0.2"
            raise ArtifactError(f"{variant}: {part} is missing; {remedy}")
