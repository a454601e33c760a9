"""The main job: makes and checks one variant for each task and ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from seap_export.activations.statistics import Calibration
from seap_export.corpus import Sample, Split
from seap_export.json_file import json_text, read_artifact
from seap_export.layers.compute import Compute, torch_threads
from seap_export.pipeline.cluster.connection import Cluster
from seap_export.pipeline.cluster.run import run_on_cluster
from seap_export.pipeline.convert import refuse_unwritable
from seap_export.pipeline.cost.checks import claim_folder, refuse_full_disk, refuse_missing_provider
from seap_export.pipeline.cost.disk import needed, step_disk
from seap_export.pipeline.cost.workload import at_most, workload
from seap_export.pipeline.evaluation.quality import (
    DENSE_TEXTS,
    measure_quality,
    quality_request,
    settled_quality,
)
from seap_export.pipeline.evaluation.speed import measure_speed, speed_request
from seap_export.pipeline.folder.dense_folder import dense_folder
from seap_export.pipeline.folder.names import QUALITY, parity_file
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.folder.performance import Performance, StepFigures, Timed, recorded
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.report import ValidationReport
from seap_export.pipeline.gate.validate import ValidationRequest, validate
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.request.mixtures import GENERAL
from seap_export.pipeline.steps.build import ExportSteps, export_steps
from seap_export.pipeline.steps.calibration import CalibrationStep
from seap_export.pipeline.steps.description import describe_variant, remarks
from seap_export.pipeline.steps.planned_work import Remaining, remaining_work, task_sizes
from seap_export.pipeline.steps.router import make_router, refuse_lost_tasks
from seap_export.pipeline.steps.run import run_steps
from seap_export.pipeline.steps.step import Step, Work
from seap_export.pipeline.steps.variant import OfVariant, PlanStep
from seap_export.pipeline.targets.targets import Targets
from seap_export.pipeline.texts.general_text import general_samples
from seap_export.pipeline.texts.split_tasks import split_tasks, warn_of_texts
from seap_export.pipeline.texts.vocabulary import choose_vocabularies
from seap_export.plan.solve import check_ratio
from seap_export.runtime.manifest import ROUTER_FOLDER
from seap_export.sources.source import Source
from seap_export.vocabulary.table import Vocabulary
from validation.reports import html_page
from validation.runtimes.table import require_runtime

__all__ = ["Exported", "PlannedExport", "export", "plan_export"]


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        variants: The requested variants, as the manifest describes them.
        report: Their validation, which may have failed.
        steps: What each step of this run cost, in the order in which they finished.
    """

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
    timed = Timed(progress or Silent())
    planned = plan_export(source, request, out, force, timed)
    workspace, steps = planned.workspace, planned.steps
    timed.planned = [step.name for step in steps.all] + _further(request)
    warn_of_texts(planned.splits, timed)
    with workspace.locked(), torch_threads(request.parity.threads):
        keys = {task: step.key for task, step in steps.calibrations.items()}
        claim_folder(workspace, source, keys, request.variants.keys())
        with recorded(workspace.folder, timed) as performance:
            work = Work(source, workspace.folder, compute, timed)
            making = (
                run_steps(steps.all, work, workspace)
                if cluster is None
                else run_on_cluster(steps.all, work, workspace, cluster, timed)
            )
            with closing(making) as finished:
                made = _make(finished, steps, workspace, work, request.targets)
            _route(source, request, planned.splits, workspace, timed)
            _measure(source, request, made, workspace, performance, compute, timed)
            workspace.finish()
            performance.write(workspace.folder)
            report = _validate(workspace.folder, request, made, timed)
    return Exported(made, report, timed.steps)


def _further(request: ExportRequest) -> list[str]:
    """The names of what comes after the variants' own steps, in order."""
    names = [ROUTER_FOLDER] if request.router_settings else []
    names += [DENSE_TEXTS, *(f"{name}/{QUALITY}" for name in request.variants)] if request.quality else []
    return [*names, *(["speed"] if request.speed else []), "validation"]


def _make(
    finished: Iterable[Step], steps: ExportSteps, workspace: Workspace, work: Work, targets: Targets | None
) -> dict[str, Any]:
    """The variants, as the manifest describes them, once their steps are finished."""
    manifest, made = workspace.manifest, dict[str, Any]()
    pending = {name: {step.name for step in own.all} for name, own in steps.variants.items()}
    for step in finished:
        if isinstance(step, CalibrationStep):
            manifest.tasks[step.task] = _describe_task(step, Calibration(work.folder / step.name))
        elif isinstance(step, PlanStep):
            for line in remarks(steps.variants[step.variant], work):
                work.progress.warn(line)
        if isinstance(step, PlanStep | OfVariant):
            name = step.variant
            pending[name].discard(step.name)
            if not pending[name]:
                made[name] = manifest.variants[name] = {
                    **describe_variant(steps.variants[name], work, workspace),
                    **({} if targets is None else {"targets": targets.to_json()}),
                }
    manifest.write(workspace.folder)  # the variants are finished, even if the next step fails
    return made


def _measure(
    source: Source,
    request: ExportRequest,
    made: dict[str, Any],
    workspace: Workspace,
    performance: Performance,
    compute: Compute,
    progress: Progress,
) -> None:
    """Compares the variants with the dense model: first their predictions, then their speed."""
    with ExitStack() as stack:
        dense = cache(lambda: stack.enter_context(dense_folder(source)))  # takes time and disk space for a GGUF file
        alike = {
            measured: [name for name, own in request.variants.items() if own.measured == measured]
            for measured in dict.fromkeys(own.measured for own in request.variants.values())
            if measured is not None
        }
        sound = {measured: _sound(names, measured, made, workspace) for measured, names in alike.items()}
        for measured, keys in sound.items() if request.quality else ():
            settings = quality_request(measured, request.parity, request.general_text)
            measure_quality(source, dense, keys, settings, workspace, compute, progress)
        for name in made if alike else ():
            made[name]["quality"] = settled_quality(workspace, name)
            workspace.manifest.variants[name] = made[name]
        for measured, keys in sound.items() if request.speed else ():
            bench = speed_request(source.spec, measured, request.parity)
            folders = {workspace.folder / name: key for name, key in keys.items()}
            measure_speed(dense, folders, measured, bench, performance, progress)


def _sound(names: Iterable[str], measured: Measured, made: Mapping[str, Any], workspace: Workspace) -> dict[str, str]:
    """The keys of what is measured; the figures of a variant that failed parity would mean nothing."""
    passed = [name for name in names if made[name]["parity"][measured.folder]["verdict"] == "passed"]
    return {name: workspace.manifest.steps[f"{name}/{measured.folder}"] for name in passed}


def _validate(folder: Path, request: ExportRequest, made: Mapping[str, Any], progress: Progress) -> ValidationReport:
    """Checks the variants as `seap-export validate` does, and writes the report next to them."""
    known = {
        name: {own: read_artifact(folder / name / parity_file(own)) for own in variant["parity"]}
        for name, variant in made.items()
    }
    asked = ValidationRequest(tuple(made), ("integrity", "parity", "router"), request.parity)
    with progress.step("validating the variants", name="validation"):
        report = validate(folder, asked, known_parity=known)
    values = report.to_json()
    texts = {"json": json_text(values), "html": html_page(values)}
    for suffix, text in texts.items():
        path = folder / f"validation.{suffix}"
        if not path.is_file() or path.read_text("utf-8") != text:
            with write_whole(path, force=True) as place:
                place.write_text(text, "utf-8", newline="\n")
    return report


def _route(
    source: Source, request: ExportRequest, splits: Mapping[str, Split], workspace: Workspace, progress: Progress
) -> None:
    settings = request.router_settings
    if settings is None:
        return
    variants = workspace.manifest.variants
    chosen = {own.mixture.name: name for name, own in request.variants.items()} if request.choices else None
    fallback = GENERAL if any(variant["task"] == GENERAL for variant in variants.values()) else None
    own = {task.name: splits[task.name] for task in request.tasks}
    figures = make_router(source, own, variants, settings, workspace, progress, fallback, chosen)
    held_out = figures["held_out"]
    if held_out["prompts"]:  # none if each is also a calibration prompt
        progress.say(f"router: {held_out['accuracy']:.1%} of {held_out['prompts']} held-out prompts go to their task")


@dataclass(frozen=True)
class PlannedExport:
    """What an export will do, after all checks that need no work.

    Attributes:
        workspace: The output folder, not locked yet.
        splits: The texts of each task.
        vocabularies: The tokens that variants of each task and mixture keep; none: all.
        general: The general text on which quality is measured; empty: it is not measured.
        steps: All steps.
        missing: Those that are not made yet.
        remaining: All that is to be done, in terms of its cost.
    """

    workspace: Workspace
    splits: Mapping[str, Split]
    vocabularies: Mapping[str, Vocabulary]
    general: tuple[Sample, ...]
    steps: ExportSteps
    missing: tuple[Step, ...]
    remaining: tuple[Remaining, ...]


def plan_export(source: Source, request: ExportRequest, out: Path, force: bool, progress: Progress) -> PlannedExport:
    """Makes all checks that need no work, and finds what is to be done."""
    for own in request.formats:
        require_runtime(own.runtimes[0])
    if request.measured is not None and request.measured.is_onnx:
        refuse_missing_provider(request.parity.provider)
    for own in request.formats:
        refuse_unwritable(own, source.spec, source.config, source.generation_config)
    for ratio in sorted({own.ratio for own in request.variants.values()}):
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align, request.plan.layout)
    workspace = Workspace(out, force)
    splits = split_tasks(source, request.tasks, request.calibration, request.support)
    calibrated = {digest for split in splits.values() for digest in split.digests()["calibration"]}
    general = general_samples(request.general_text, calibrated) if request.quality else ()
    with progress.step(f"hashing {source.name}", name="hashing"):
        source.digest  # noqa: B018 - remembered
    mixtures = {own.name: tuple(own.weights) for own in request.all_mixtures}
    vocabularies = choose_vocabularies(source, request.tasks, mixtures, request.vocabulary, progress)
    steps = export_steps(source, request, splits, vocabularies)
    if request.router_settings is not None:
        refuse_lost_tasks(workspace, [task.name for task in request.tasks])
    missing = tuple(step for step in steps.all if not workspace.is_done(step.name, step.key))
    remaining, work = remaining_work(request, steps, missing, out), workload(source, request)
    tasks = task_sizes(splits, general, request.calibration.max_length, at_most)
    refuse_full_disk(
        needed(step_disk(part.kind, part.size(tasks), part.ratio, part.of(work)) for part in remaining), out
    )
    return PlannedExport(workspace, splits, vocabularies, general, steps, missing, remaining)


def _describe_task(step: CalibrationStep, calibration: Calibration) -> dict[str, Any]:
    return {
        "statistics": step.name,
        "seed": step.settings.seed,
        "max_length": step.settings.max_length,
        "calibration_texts": len(step.split.calibration),
        "calibration_tokens": calibration.record.num_tokens,
        "held_out_texts": len(step.split.held_out),
    }
