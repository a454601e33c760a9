"""The main job: makes and checks one variant for each task and ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.model.layers.compute import Compute, torch_threads
from seap_export.model.sources.source import Source
from seap_export.pipeline.cluster.connection import Cluster
from seap_export.pipeline.cluster.run import run_on_cluster
from seap_export.pipeline.cost.checks import Disk, claim_folder, refuse_full_disk, refuse_other_contents
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.disk import planned_disk
from seap_export.pipeline.folder.dense_folder import shared_dense_folder
from seap_export.pipeline.folder.performance import StepFigures, Timed, recorded
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.report import ValidationReport
from seap_export.pipeline.prepared import Prepared, prepare
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.build import ExportSteps, export_steps
from seap_export.pipeline.steps.joint.router import refuse_lost_tasks
from seap_export.pipeline.steps.step import Made, PathStep, Step, StepContext, run_steps
from seap_export.pipeline.texts.split_tasks import warn_of_texts


@dataclass(frozen=True)
class Exported:
    """The result of an export; `steps` has time and memory of each step, in the order in which they finished."""

    variants: Mapping[str, Any]
    report: ValidationReport
    steps: Mapping[str, StepFigures]


def export(
    source: Source,
    request: ExportRequest,
    out: Path,
    *,
    force: bool = False,
    compute: Compute = Compute(),  # noqa: B008 - frozen
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Exported:
    """Makes every variant that is not in `out` yet, measures and validates them.

    A variant that fails the validation is recorded in the report and raises no exception, so the others are finished.

    All inputs are checked before anything is written. Each step is written completely or not at all; a later
    run with the same inputs continues where an earlier one stopped, within a step as well.

    Raises:
        UsageError: The request contradicts itself, or would replace something without --force.
        InputError: The model or a corpus cannot be used.
        EnvironmentFailure: The execution provider, memory or disk space is missing.
        ArtifactError: A file in `out` is damaged.
    """
    timed, workspace = Timed(progress or Silent()), Workspace(out, force)
    prepared = prepare_answered(source, request, workspace, compute, cluster, timed)
    return make_variants(prepared, workspace, compute, cluster, timed)


def prepare_answered(
    source: Source,
    request: ExportRequest,
    workspace: Workspace,
    compute: Compute,
    cluster: Cluster | None,
    timed: Timed,
) -> Prepared:
    """Prepares an export as `prepare` does, then has the dense model answer prompts if needed, which may take long."""
    prepared = prepare(source, request, workspace, timed)
    steps = tuple(prepared.unanswered.values())
    if not steps:
        return prepared
    plan_export(prepared, workspace)  # its checks
    timed.planned = [step.name for step in steps]
    with workspace.locked(), torch_threads(request.parity.threads):
        claim_folder(workspace, source, {}, request.variants.keys())
        with recorded(workspace.folder, timed):
            _run(steps, Made(StepContext(source, workspace.folder, compute, timed), workspace), cluster, timed)
    return prepared.answered(workspace, timed)


def make_variants(
    prepared: Prepared, workspace: Workspace, compute: Compute, cluster: Cluster | None, timed: Timed
) -> Exported:
    """Makes and checks the variants of a request, whose prompts are answered and whose targets have their choices."""
    source, request = prepared.source, prepared.request
    planned = plan_export(prepared, workspace)
    steps = planned.steps
    timed.planned = [name for step in steps.all for name in step.names]
    warn_of_texts(prepared.splits, source.spec, timed, refits=request.refits)
    with workspace.locked(), torch_threads(request.parity.threads):
        claim_folder(workspace, source, steps.calibration_keys, request.variants.keys())
        if cluster is None:  # whose workers have threads of their own
            _warn_of_mix(workspace, [step.name for step in steps.paths if step not in planned.missing], timed)
        with recorded(workspace.folder, timed) as performance, shared_dense_folder(source) as dense:
            made = Made(StepContext(source, workspace.folder, compute, timed), workspace, performance, dense)
            _run(steps.all, made, cluster, timed)
    assert made.report is not None
    return Exported(made.variants, made.report, timed.steps)


def _warn_of_mix(workspace: Workspace, reused: Sequence[str], progress: Progress) -> None:
    for words, steps in workspace.manifest.made_otherwise(reused).items():
        more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
        progress.warn(
            f"{steps[0]}{more} of {workspace.folder} were made with {words}, unlike this run; they are used as they "
            "are; use another --out to make all with the same"
        )


def _run(steps: Sequence[Step], made: Made, cluster: Cluster | None, timed: Timed) -> None:
    if cluster is None:
        run_steps(steps, made)
    else:
        run_on_cluster(steps, made, cluster, timed)


@dataclass(frozen=True)
class PlannedExport:
    """The steps of an export, those that are not made yet, and the disk space that these take."""

    steps: ExportSteps
    missing: tuple[PathStep, ...]
    sizes: Sizes
    disk: Disk


def plan_export(prepared: Prepared, workspace: Workspace) -> PlannedExport:
    """Finds what is to be done."""
    with workspace.seen_unlocked():
        return _plan_export(prepared, workspace)


def _plan_export(prepared: Prepared, workspace: Workspace) -> PlannedExport:
    source, request, unanswered = prepared.source, prepared.request, prepared.unanswered
    steps = export_steps(source, request, prepared.splits, prepared.vocabularies or {})
    keys = {} if unanswered else steps.calibration_keys
    refuse_other_contents(workspace, source, keys, request.variants.keys())
    if request.router_settings is not None:
        refuse_lost_tasks(workspace, [task.name for task in request.tasks])
    known = steps.of_tasks if prepared.vocabularies is None else steps.paths  # plans depend on the tokens
    missing = tuple(step for step in known if not workspace.is_done(step.name, step.key))
    sizes = Sizes.of_source(source)
    disk = planned_disk(prepared, steps, missing, sizes)
    refuse_full_disk(disk, workspace.folder)
    return PlannedExport(steps, missing, sizes, disk)
