"""What an export would make, how large it would be and how long it would take, without writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from seap_export.corpus import Sample
from seap_export.pipeline.budget.failure import refuse_unreachable
from seap_export.pipeline.budget.preview import first_candidates, search_disk, search_work
from seap_export.pipeline.cost.disk import Disk, beside_weights, needed, step_disk, variant_bytes
from seap_export.pipeline.cost.time import measure_machine, step_seconds
from seap_export.pipeline.cost.workload import Task, Workload, workload
from seap_export.pipeline.export import plan_export
from seap_export.pipeline.progress import Silent
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.planned_work import Remaining, task_sizes
from seap_export.pipeline.texts.split_tasks import tokenize
from seap_export.sources.source import Source

__all__ = ["Preview", "preview"]


@dataclass(frozen=True)
class Preview:
    """What `export` would do.

    Attributes:
        variants: For each variant its name, its texts, its size in bytes and whether it exists already; none if they
            are yet to be chosen.
        disk: What the steps that remain take on the disk.
        seconds: Estimated time of each kind of step that remains to be done, in order.
        candidates: With targets, what is tried first, with sizes and ideal speed-ups.
    """

    variants: tuple[dict[str, Any], ...]
    disk: Disk
    seconds: Mapping[str, float]
    candidates: tuple[dict[str, Any], ...] = ()


def preview(source: Source, request: ExportRequest, out: Path, *, force: bool = False) -> Preview:
    """Makes the same checks of the inputs as `export`; sizes and times follow from the requested ratios.

    Raises:
        UsageError, InputError, EnvironmentFailure, ArtifactError: As for `export`; an input would be refused.
    """
    if request.targets is not None:
        refuse_unreachable(source.spec, request)
    planned = plan_export(source, request, out, force, Silent())
    work, parts, candidates = workload(source, request), planned.remaining, tuple[dict[str, Any], ...]()
    if request.targets is not None:
        asked = source.spec, request, planned.vocabularies, beside_weights(work)
        candidates = first_candidates(*asked)
        parts += search_work(*asked)
    missing = {step.name for step in planned.missing}
    rows = tuple(
        {
            "variant": name,
            "calibration_texts": sum(len(own.split.calibration) for own in steps.plan.ranking.calibrations),
            "held_out_texts": sum(len(own.split.held_out) for own in steps.plan.ranking.calibrations),
            "bytes_about": variant_bytes(
                steps.plan.ratio, work.with_tokens(steps.plan.vocabulary), request.variants[name].formats
            ),
            "exists": missing.isdisjoint(step.name for step in steps.all),
        }
        for name, steps in planned.steps.variants.items()
    )
    count = partial(_count, source)
    tasks = task_sizes(planned.splits, planned.general, request.calibration.max_length, count)
    kept = planned.remaining + (() if request.targets is None else search_disk(source.spec, request))
    disk = needed(step_disk(part.kind, part.size(tasks), part.ratio, part.of(work)) for part in kept)
    return Preview(rows, disk, _seconds(parts, tasks, work), candidates)


def _count(source: Source, texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, int]:
    return {name: sum(map(len, own)) for name, own in tokenize(source, texts, max_length).items()}


def _seconds(parts: Sequence[Remaining], tasks: Mapping[str, Task], work: Workload) -> dict[str, float]:
    machine = measure_machine()
    found: dict[str, float] = {}
    for part in parts:
        seconds = step_seconds(part.kind, part.size(tasks), part.ratio, part.of(work), machine)
        if seconds:  # a plan alone takes none
            found[part.label] = found.get(part.label, 0.0) + seconds
    return found
