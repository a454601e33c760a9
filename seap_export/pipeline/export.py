"""The main job: makes and checks one variant for each task and ratio."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seap_export.corpus import Sample, Split
from seap_export.model.layers.compute import Compute, torch_threads
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.cluster.connection import Cluster
from seap_export.pipeline.cluster.run import run_on_cluster
from seap_export.pipeline.convert import writable_spec
from seap_export.pipeline.cost.checks import (
    claim_folder,
    refuse_full_disk,
    refuse_missing_provider,
    refuse_other_contents,
)
from seap_export.pipeline.cost.workload import at_most, workload
from seap_export.pipeline.folder.dense_folder import shared_dense_folder
from seap_export.pipeline.folder.performance import StepFigures, Timed, recorded
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.report import ValidationReport
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.build import ExportSteps, export_steps
from seap_export.pipeline.steps.description import describe_task, describe_variant, remarks
from seap_export.pipeline.steps.joint.joint_step import MadeVariants
from seap_export.pipeline.steps.joint.router import refuse_lost_tasks
from seap_export.pipeline.steps.planned_work import PlannedWork, planned_disk, token_counts
from seap_export.pipeline.steps.run import run_steps
from seap_export.pipeline.steps.single.answers import AnswersStep, answers_steps
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.variant import OfVariant, PlanStep
from seap_export.pipeline.steps.step import Step, Work
from seap_export.pipeline.targets.targets import Targets
from seap_export.pipeline.texts.chat import chat_of_source
from seap_export.pipeline.texts.general_text import general_samples
from seap_export.pipeline.texts.split_tasks import (
    cut_to_tokens,
    refuse_shared_texts,
    split_tasks,
    warn_of_texts,
)
from seap_export.pipeline.texts.tokenizer import tokenizer_folder
from seap_export.pipeline.texts.vocabulary import choose_vocabularies
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.plan.choice.solve import check_ratio
from validation.runtimes.table import require_runtime


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
    planned = plan_answered(source, request, out, force, compute, cluster, timed)
    workspace, steps = planned.workspace, planned.steps
    timed.planned = [*(step.name for step in steps.all), *(name for step in steps.joint for name in step.names)]
    warn_of_texts(planned.splits, source.spec, timed, refits=request.refits)
    with workspace.locked(), torch_threads(request.parity.threads):
        keys = {task: step.key for task, step in steps.calibrations.items()}
        claim_folder(workspace, source, keys, request.variants.keys())
        if cluster is None:  # whose workers have threads of their own
            _warn_of_mix(workspace, [step.name for step in steps.all if step not in planned.missing], timed)
        with recorded(workspace.folder, timed) as performance, shared_dense_folder(source) as dense:
            work = Work(source, workspace.folder, compute, timed)
            with closing(_making(steps.all, work, workspace, cluster, timed)) as finished:
                variants = _make(finished, steps, workspace, work, request.targets)
            made = MadeVariants(work, workspace, performance, dense, variants)
            for step in steps.joint:
                step.make(made)
    assert made.report is not None
    return Exported(made.variants, made.report, timed.steps)


def _warn_of_mix(workspace: Workspace, reused: Sequence[str], progress: Progress) -> None:
    for words, steps in workspace.manifest.made_otherwise(reused).items():
        more = f" and {len(steps) - 1} more" if len(steps) > 1 else ""
        progress.warn(
            f"{steps[0]}{more} of {workspace.folder} were made with {words}, unlike this run; they are used as they "
            "are; use another --out to make all with the same"
        )


def _making(
    steps: Sequence[Step], work: Work, workspace: Workspace, cluster: Cluster | None, timed: Timed
) -> Generator[Step, None, None]:
    if cluster is None:
        return run_steps(steps, work, workspace)
    return run_on_cluster(steps, work, workspace, cluster, timed)


def _make(
    finished: Iterable[Step], steps: ExportSteps, workspace: Workspace, work: Work, targets: Targets | None
) -> dict[str, dict[str, Any]]:
    """The variants, as the manifest describes them, once their steps are finished."""
    manifest, made = workspace.manifest, dict[str, dict[str, Any]]()
    pending = {name: {step.name for step in variant.all} for name, variant in steps.variants.items()}
    for step in finished:
        if isinstance(step, CalibrationStep):
            manifest.tasks[step.task] = describe_task(step, Calibration(work.folder / step.name))
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


@dataclass(frozen=True)
class PlannedExport:
    """What an export will do, after all checks that need no work.

    Attributes:
        workspace: The output folder, not locked yet.
        answers: The steps that answer prompts and are not made yet, by task; the texts are then the prompts alone.
        splits: The texts of each task.
        vocabularies: The tokens that variants of each task and mixture keep; none: all.
        general: The general text on which quality is measured; empty: it is not measured.
        steps: All steps.
        missing: Those that are not made yet.
        planned_work: All that is to be done, in terms of its cost.
    """

    workspace: Workspace
    answers: Mapping[str, AnswersStep]
    splits: Mapping[str, Split]
    vocabularies: Mapping[str, Vocabulary]
    general: tuple[Sample, ...]
    steps: ExportSteps
    missing: tuple[Step, ...]
    planned_work: tuple[PlannedWork, ...]


def plan_answered(
    source: Source,
    request: ExportRequest,
    out: Path,
    force: bool,
    compute: Compute,
    cluster: Cluster | None,
    timed: Timed,
) -> PlannedExport:
    """As `plan_export`; prompts that the dense model is to answer are answered before, which may take long."""
    planned = plan_export(source, request, out, force, timed)
    steps, workspace = tuple(planned.answers.values()), planned.workspace
    if not steps:
        return planned
    timed.planned = [step.name for step in steps]
    with workspace.locked(), torch_threads(request.parity.threads):
        claim_folder(workspace, source, {}, request.variants.keys())
        with recorded(workspace.folder, timed):
            work = Work(source, workspace.folder, compute, timed)
            with closing(_making(steps, work, workspace, cluster, timed)) as finished:
                for _ in finished:
                    pass
    return plan_export(source, request, out, force, timed)


def plan_export(source: Source, request: ExportRequest, out: Path, force: bool, progress: Progress) -> PlannedExport:
    """Makes all checks that need no work, and finds what is to be done."""
    workspace = Workspace(out, force)
    with workspace.seen_unlocked():
        return _plan_export(source, request, workspace, progress)


def _plan_export(source: Source, request: ExportRequest, workspace: Workspace, progress: Progress) -> PlannedExport:
    with tokenizer_folder(source) as folder:
        for format in request.formats:  # before anybody installs a runtime in vain
            writable_spec(format, folder)
    for format in request.formats:
        require_runtime(format.runtimes[0])
    if request.measured is not None:
        refuse_missing_provider(request.measured.provider(request.parity.provider))
    for ratio in sorted({variant.ratio for variant in request.variants.values()}):
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align, request.plan.layout)
    out, chat = workspace.folder, chat_of_source(source)
    splits = split_tasks(source, request.tasks, request.calibration, request.support, chat)
    if not source.is_hashed:
        with progress.step(f"hashing {source.name}", name="hashing"):
            source.digest  # noqa: B018 - remembered
    answers = answers_steps(source, request.tasks, splits, request.calibration)
    answered = {task: step for task, step in answers.items() if workspace.is_done(step.name, step.key)}
    splits |= cut_to_tokens(source, {task: step.answered(out) for task, step in answered.items()}, request.calibration)
    unanswered = {task: step for task, step in answers.items() if task not in answered}
    splits |= {task: replace(splits[task], num_tokens=step.most_tokens) for task, step in unanswered.items()}
    if request.quality or request.targets is not None:
        refuse_shared_texts(request.all_mixtures, splits)
    calibrated = {digest for split in splits.values() for digest in split.digests()["calibration"]}
    general = general_samples(request.general_text, calibrated, chat) if request.quality else ()
    mixtures = {mixture.name: tuple(mixture.weights) for mixture in request.all_mixtures}
    vocabularies = choose_vocabularies(source, request.tasks, mixtures, request.vocabulary, progress, chat, splits)
    steps = export_steps(source, request, splits, vocabularies)
    keys = {task: step.key for task, step in steps.calibrations.items()}
    refuse_other_contents(workspace, source, {} if unanswered else keys, request.variants.keys())
    if request.router_settings is not None:
        refuse_lost_tasks(workspace, [task.name for task in request.tasks])
    missing = tuple(step for step in steps.all if not workspace.is_done(step.name, step.key))
    planned_work = (*(step.planned_work for step in unanswered.values()), *steps.planned_work(missing, out))
    counts = token_counts(splits, general, request.calibration.max_length, at_most)
    counts |= {task: step.expected(counts[task]) for task, step in unanswered.items()}
    refuse_full_disk(planned_disk(planned_work, counts, workload(source, request)), out)
    return PlannedExport(workspace, unanswered, splits, vocabularies, general, steps, missing, planned_work)
