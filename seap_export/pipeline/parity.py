"""The parity step: chooses prompts and folders, and writes the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from converters.formats import format_folders
from seap_export.activations.statistics import Calibration
from seap_export.corpus import Task
from seap_export.errors import ArtifactError
from seap_export.layers.compute import Compute
from seap_export.pipeline.rounded import opened_model
from seap_export.pipeline.settings import ParitySettings, calibration_step
from seap_export.plan.plan import read_plan
from validation.parity import run_parity
from validation.report import ParityReport

__all__ = [
    "calibrations_of",
    "check_parity",
    "held_out_prompts",
    "parity_file",
    "parity_files",
    "prompts_of",
    "write_report",
]


def parity_file(folder: str) -> str:
    """The report of a format's folder within a variant; that of `onnx` has had its name from the beginning."""
    return "parity.json" if folder == "onnx" else f"parity-{folder}.json"


def parity_files(variant: Path) -> dict[str, Path]:
    """The reports that there are in a variant, by folder."""
    names = {path.name: parity_file(path.name) for path in format_folders(variant)}
    return {folder: variant / name for folder, name in names.items() if (variant / name).is_file()}


def held_out_prompts(held_out: Sequence[Sequence[tuple[str, str]]], number: int) -> list[str]:
    """Up to `number` prompts for parity, taken from the tasks in turn.

    Args:
        held_out: For each task its held-out texts, each as prompt and completion; a text without a prompt gives its
            completion.
        number: How many.
    """
    samples = [sample for turn in zip_longest(*held_out) for sample in turn if sample is not None]
    return [prompt or completion for prompt, completion in samples[:number]]


def prompts_of(variant: Path, corpus: Path | None, number: int) -> list[str]:
    """The first prompts of a corpus, or the held-out prompts of the variant's task.

    Raises:
        ArtifactError: The folder is not a variant, or the statistics of its task are missing.
        InputError: The corpus cannot be read.
    """
    if corpus is not None:
        return [sample.prompt for sample in islice(Task("prompts", corpus).texts(), number)]
    records = [own.record.held_out for own in calibrations_of(variant)]
    return held_out_prompts([[(one["prompt"], one["completion"]) for one in own] for own in records], number)


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
    variant: Path,
    folder: str,
    runtime: str,
    prompts: list[str],
    settings: ParitySettings,
    on_progress: Callable[[str], None] | None = None,
    compute: Compute | None = None,
    on_memory: Callable[[str], None] | None = None,
) -> ParityReport:
    """Runs the comparison for a variant.

    Args:
        variant: Its folder.
        folder: The folder in it that a format wrote.
        runtime: What runs that.
        prompts: The prompts.
        settings: How.
        on_progress: Receives a line about each case.
        compute: Where torch runs.
        on_memory: Receives a line about memory.

    Raises:
        UsageError, InputError, ArtifactError, EnvironmentFailure, ParityFailure: As for
            `validation.parity.run_parity`; a failed comparison is in the report.
    """
    _refuse_incomplete(variant, "hf", folder)
    with opened_model(variant / folder) as model:
        return run_parity(
            model,
            variant / folder,
            prompts,
            runtime=runtime,
            provider=settings.provider,
            threads=settings.threads,
            decode_steps=settings.decode_steps,
            limits=settings.limits,
            long_tokens=settings.long_tokens,
            on_progress=on_progress,
            compute=compute,
            on_memory=on_memory,
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
