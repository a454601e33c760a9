"""The dry run of an export: estimates sizes, disk space and times without writing anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from seap_export.corpus import Sample
from seap_export.model.layers.compute import torch_threads
from seap_export.model.sources.source import Source
from seap_export.pipeline.budget.failure import refuse_unreachable
from seap_export.pipeline.budget.preview import first_candidates, search_disk, search_work
from seap_export.pipeline.cost.cost import Disk, Rates, measure_rates
from seap_export.pipeline.cost.workload import TokenCounts, Workload, workload
from seap_export.pipeline.export import plan_export
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.prepared import Prepared, prepare
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.build import export_steps
from seap_export.pipeline.steps.planned_work import PlannedWork, planned_disk
from seap_export.pipeline.steps.single.formats import FormatStep
from seap_export.pipeline.steps.single.variant import PlanStep, ShrinkStep
from seap_export.pipeline.steps.step import PathStep
from seap_export.pipeline.steps.variant_steps import VariantSteps
from seap_export.pipeline.texts.split_tasks import split_tasks, tokenize, warn_of_texts
from seap_export.pruning.plan.recipes import DEFAULT_RECIPE, EFFORTS


@dataclass(frozen=True)
class Preview:
    """The result of a dry run: the variants that `export` would make, and estimates of their size and time.

    Attributes:
        variants: For each variant its name, its texts, its bytes and those of each folder to ship, the passes of
            distillation and whether it exists already; none if they are yet to be chosen.
        disk: Bytes that the remaining steps take on the disk.
        seconds: Estimated time of each kind of step that remains to be done, in order.
        candidates: The candidates that are tried first, with sizes and ideal speed-ups; None: there are no targets.
        recipes: Without targets, the estimated time of the whole export with the default recipe and with those that
            do less and more work than it, if the recipe refits as they do.
    """

    variants: tuple[dict[str, Any], ...]
    disk: Disk
    seconds: Mapping[str, float]
    candidates: tuple[dict[str, Any], ...] | None = None
    recipes: Mapping[str, float] = field(default_factory=dict)


def preview(
    source: Source, request: ExportRequest, out: Path, *, force: bool = False, progress: Progress | None = None
) -> Preview:
    """Makes the same checks of the inputs as `export`; sizes and times follow from the requested ratios.

    Raises:
        UsageError, InputError, EnvironmentFailure, ArtifactError: As for `export`; an input would be refused.
    """
    if request.targets is not None:
        refuse_unreachable(source.spec, request)
    progress, workspace = progress or Silent(), Workspace(out, force)
    prepared = prepare(source, request, workspace, progress)
    if prepared.unanswered:
        prepared = prepared.with_vocabularies(progress)
    planned = plan_export(prepared, workspace)
    warn_of_texts(prepared.splits, source.spec, progress, refits=request.refits)
    work, parts, candidates = workload(source, request), planned.planned_work, None
    kept = parts
    if request.targets is not None:
        search = source.spec, request, prepared.vocabularies or {}, work
        candidates = first_candidates(*search)
        parts += search_work(*search)
        kept += search_disk(source.spec, request)
    missing = {step.name for step in planned.missing}
    rows = tuple(
        {
            "variant": name,
            "calibration_texts": sum(len(step.split.calibration) for step in steps.plan.ranking.calibrations),
            "held_out_texts": sum(len(step.split.held_out) for step in steps.plan.ranking.calibrations),
            "bytes_about": _bytes(steps.all, steps, work),
            "to_ship_about": {folder: _bytes([step], steps, work) for folder, step in steps.formats.items()},
            "distillation": _passes(steps),
            "exists": missing.isdisjoint(step.name for step in steps.all),
        }
        for name, steps in planned.steps.variants.items()
    )
    counts = prepared.token_counts(partial(_count_tokens, source))
    with torch_threads(request.parity.threads):
        rates = measure_rates()
    seconds, recipes = _seconds(parts, counts, work, rates), dict[str, float]()
    if request.targets is None and request.plan.compensation == "sequential":
        recipes = {name: _whole_seconds(prepared, name, counts, rates) for name in (DEFAULT_RECIPE, *EFFORTS)}
    return Preview(rows, planned_disk(kept, counts, work), seconds, candidates, recipes)


def _whole_seconds(prepared: Prepared, recipe: str, counts: Mapping[str, TokenCounts], rates: Rates) -> float:
    """The time of all steps with as many texts and as much distillation and trials as a shipped recipe has."""
    source, request = prepared.source, prepared.request
    other = replace(request, recipe=recipe)
    calibration = other.calibration
    if calibration != request.calibration and not prepared.unanswered:
        splits = split_tasks(source, request.tasks, calibration, request.support, prepared.chat)
        prepared = replace(prepared, request=other, splits=splits)
        counts = prepared.token_counts(partial(_count_tokens, source))
    steps = export_steps(source, other, prepared.splits, prepared.vocabularies or {})
    with tempfile.TemporaryDirectory() as nothing:
        parts = steps.planned_work(steps.paths, Path(nothing))
    return sum(_seconds(parts, counts, workload(source, other), rates).values())


def _passes(steps: VariantSteps) -> float:
    ranking = steps.plan.ranking
    return ranking.settings.passes_over(ranking.num_tokens) if steps.plan.ratio else 0.0


def _bytes(made: Iterable[PathStep], steps: VariantSteps, work: Workload) -> int:
    """About how many bytes the lasting files of some steps take, if the requested ratio is achieved."""
    lasting = [step for step in made if isinstance(step, PlanStep | ShrinkStep | FormatStep)]
    none = dict.fromkeys(steps.plan.tasks, TokenCounts(0, 0))
    return sum(step.planned_work.disk(none, work).kept for step in lasting)


def _count_tokens(source: Source, texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, int]:
    return {name: sum(map(len, ids)) for name, ids in tokenize(source, texts, max_length).items()}


def _seconds(
    parts: Sequence[PlannedWork], counts: Mapping[str, TokenCounts], work: Workload, rates: Rates
) -> dict[str, float]:
    seconds = dict[str, float]()
    for part in parts:
        if taken := part.seconds(counts, work, rates):  # a plan alone takes none
            seconds[part.label] = seconds.get(part.label, 0.0) + taken
    return seconds
