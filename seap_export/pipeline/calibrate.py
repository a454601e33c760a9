"""`seap-export calibrate`: the statistics of tasks alone, which a later export into the same folder uses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from seap_export.corpus import Task
from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.pipeline.cost.checks import claim_folder
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.request.options import CalibrationSettings
from seap_export.pipeline.steps.single.calibration import calibration_steps
from seap_export.pipeline.steps.step import Made, StepContext, run_steps
from seap_export.pipeline.texts.split_tasks import split_tasks, warn_of_texts


def calibrate(
    source: Source,
    tasks: Sequence[Task],
    settings: CalibrationSettings,
    out: Path,
    *,
    force: bool,
    compute: Compute,
    progress: Progress,
) -> None:
    """Writes the statistics of each task that has none in `out` yet.

    Raises:
        UsageError: The folder holds statistics made from other inputs, and there is no --force.
        InputError: The tokenizer, a text or a weight of the model cannot be used; no statistics were written.
        ArtifactError: Finished statistics are damaged, and there is no --force.
    """
    workspace = Workspace(out, force)
    splits = split_tasks(source, tasks, settings)
    with progress.step(f"hashing {source.name}"):
        steps = calibration_steps(source, splits, settings)
    warn_of_texts(splits, source.spec, progress)
    with workspace.locked():
        was_complete = workspace.manifest.complete
        claim_folder(workspace, source, {task: step.key for task, step in steps.items()})
        run_steps(steps.values(), Made(StepContext(source, out, compute, progress), workspace))
        if was_complete:  # what was exported into the folder stays finished
            workspace.manifest.complete = True
            workspace.manifest.write(out)
