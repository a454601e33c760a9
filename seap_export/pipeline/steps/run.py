"""Makes steps one after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path

from seap_export.pipeline.folder.manifest import made_with
from seap_export.pipeline.folder.outputs import alone, go_on
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.step import Step, Work


def run_steps(steps: Iterable[Step], work: Work, workspace: Workspace) -> Generator[Step, None, None]:
    """Makes what is not there yet; yields each step once it is.

    Args:
        steps: Each after the steps that it needs.
        work: The model and the machine.
        workspace: The output folder, locked.

    Raises:
        SeapError: A step cannot be made, or one in the folder must not be replaced; see `Workspace.is_done`.
    """
    for step in steps:
        if not workspace.is_done(step.name, step.key):
            make_step(step, work, workspace)
        elif step.reused is not None:
            work.progress.say(step.reused)
        yield step


def make_step(step: Step, work: Work, workspace: Workspace) -> None:
    """Makes one step and records it."""
    with (
        work.progress.step(step.label, step.units, step.unit, name=step.name) as advance,
        workspace.writing(step.name, step.key, folder=step.is_folder, resumes=step.resumes) as path,
        alone(path),
    ):
        make_or_continue(step, work, path, advance)


def make_or_continue(step: Step, work: Work, path: Path, advance: Advance) -> None:
    """Makes a step at a path that is held `alone`, from what can be used of an interrupted call's if it resumes."""
    if step.resumes and (line := go_on(path, made_with(work.compute))):
        work.progress.warn(f"{step.label}: {line}")
    step.make(work, path, advance)
