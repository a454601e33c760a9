"""What lies in a variant's folder, and beside it."""

from __future__ import annotations

from pathlib import Path

from converters.formats import format_folders
from seap_export.activations.statistics import Calibration
from seap_export.errors import ArtifactError
from seap_export.pipeline.folder.names import calibration_step, parity_file
from seap_export.plan.plan import read_plan

__all__ = ["calibrations_of", "parity_files", "refuse_incomplete"]


def parity_files(variant: Path) -> dict[str, Path]:
    """The reports that there are in a variant, by folder."""
    names = {path.name: parity_file(path.name) for path in format_folders(variant)}
    return {folder: variant / name for folder, name in names.items() if (variant / name).is_file()}


def calibrations_of(variant: Path) -> list[Calibration]:
    """The statistics of the tasks that a variant was made for, which `export` keeps in the same output folder.

    Raises:
        ArtifactError: The folder is not a variant, or the statistics of a task are missing.
    """
    refuse_incomplete(variant, "plan.json")
    folders = [variant.absolute().parent / calibration_step(task) for task in read_plan(variant / "plan.json").weights]
    for folder in folders:
        if not folder.is_dir():
            raise ArtifactError(f"{variant}: no held-out texts at {folder}; give prompts with --prompt-file")
    return [Calibration(folder) for folder in folders]


def refuse_incomplete(variant: Path, *parts: str) -> None:
    """Raises `ArtifactError` if a variant's folder, or a part of it, is missing."""
    if not variant.is_dir():
        raise ArtifactError(f"{variant}: no such folder; give a variant's folder, such as OUT/TASK-0.2")
    for part in parts:
        if not (variant / part).exists():
            remedy = "give --prompt-file" if part == "plan.json" else "give a variant's folder, such as OUT/TASK-0.2"
            raise ArtifactError(f"{variant}: {part} is missing; {remedy}")
