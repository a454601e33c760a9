"""The dry run of an export: sizes, disk space and the time of the main work, without writing anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seap_export.model.layers.compute import Compute, torch_threads
from seap_export.model.sources.source import Source
from seap_export.pipeline.budget.failure import refuse_unreachable
from seap_export.pipeline.budget.preview import first_candidates, search_disk
from seap_export.pipeline.cost.checks import Disk
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.export import plan_export
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.pace import measured_seconds
from seap_export.pipeline.prepared import prepare
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.step import PathStep
from seap_export.pipeline.steps.variant_steps import VariantSteps
from seap_export.pipeline.texts.split_tasks import warn_of_texts


@dataclass(frozen=True)
class Preview:
    """The result of a dry run: the variants that `export` would make, and their sizes.

    Attributes:
        variants: For each variant its name, its texts, its bytes and those of each folder to ship, the passes of
            distillation, the tokens that are written to learn from, and whether it exists already; none if they are
            yet to be chosen.
        disk: Bytes that the remaining steps take on the disk.
        seconds: The time of what remains of calibration, ranking and refit, scaled from a layer that was timed.
        candidates: The candidates that are tried first, with sizes and ideal speed-ups; None: there are no targets.
    """

    variants: tuple[dict[str, Any], ...]
    disk: Disk
    seconds: Mapping[str, float]
    candidates: tuple[dict[str, Any], ...] | None = None


def preview(
    source: Source,
    request: ExportRequest,
    out: Path,
    *,
    force: bool = False,
    compute: Compute = Compute(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Preview:
    """Makes the same checks of the inputs as `export`; sizes follow from the requested ratios.

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
    sizes, disk, candidates = planned.sizes, planned.disk, None
    if request.targets is not None:
        candidates = first_candidates(request, prepared.vocabularies or {}, sizes)
        disk = replace(disk, unfinished=max(disk.unfinished, search_disk(request, sizes)))
    missing = {step.name for step in planned.missing}
    rows = tuple(
        {
            "variant": name,
            "calibration_texts": sum(len(step.split.calibration) for step in steps.plan.ranking.calibrations),
            "held_out_texts": sum(len(step.split.held_out) for step in steps.plan.ranking.calibrations),
            "bytes_about": _bytes(steps.all, sizes),
            "to_ship_about": {folder: step.size(sizes) for folder, step in steps.formats.items()},
            "distillation": _passes(steps),
            "fresh_tokens": sum(step.number for step in steps.hf.fresh),
            "exists": missing.isdisjoint(step.name for step in steps.all),
        }
        for name, steps in planned.steps.variants.items()
    )
    with torch_threads(request.parity.threads):
        seconds = measured_seconds(source, planned.steps, planned.missing, compute)
    return Preview(rows, disk, seconds, candidates)


def _passes(steps: VariantSteps) -> float:
    ranking = steps.plan.ranking
    return ranking.settings.passes_over(ranking.num_tokens) if steps.plan.ratio else 0.0


def _bytes(steps: Iterable[PathStep], sizes: Sizes) -> int:
    return sum(step.size(sizes) for step in steps)
