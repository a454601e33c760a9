"""Writes the manifest's entries of tasks and finished variants, and warns of costly shapes in a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from seap_export.common.json_file import read_artifact
from seap_export.errors import ArtifactError
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.names import HF, ROUNDING, parity_file, quality_file
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.steps.joint.quality import settled_quality
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.formats import FormatStep, format_step
from seap_export.pipeline.steps.step import Made, Step, StepContext
from seap_export.pipeline.steps.variant_steps import VariantSteps
from seap_export.pipeline.targets.targets import Targets
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.plan.plan import read_plan
from seap_export.pruning.rounding.note import read_note

#: What is repeated of a parity report.
_PARITY = ("verdict", "failure", "max_abs", "top1_agreement", "mean_kl_nats", "runtime")


@dataclass(frozen=True)
class TaskEntry(Step):
    """Describes a task whose statistics are made."""

    calibration: CalibrationStep

    def run(self, made: Made) -> None:
        step, settings = self.calibration, self.calibration.settings
        made.workspace.manifest.tasks[step.task] = {
            "statistics": step.name,
            "seed": settings.seed,
            "max_length": settings.max_length,
            "calibration_texts": len(step.split.calibration),
            "calibration_tokens": Calibration(made.work.folder / step.name).record.num_tokens,
            "held_out_texts": len(step.split.held_out),
            **({"answers": "model"} if settings.answers == "model" else {}),
        }


@dataclass(frozen=True)
class PlanRemarks(Step):
    """Warns of shapes in a plan that cost speed or size in a format, before they are made."""

    variant: VariantSteps

    def run(self, made: Made) -> None:
        plan, work = self.variant.plan, made.work
        shrunk = read_plan(work.folder / plan.name).shrunk_spec(work.source.spec)
        for remark in dict.fromkeys(step.format.remark(shrunk) for step in self.variant.formats.values()):
            if remark is not None:
                work.progress.warn(f"{plan.variant}: {remark}")


@dataclass(frozen=True)
class VariantEntry(Step):
    """Describes a variant whose own steps are all made."""

    variant: VariantSteps
    targets: Targets | None

    def run(self, made: Made) -> None:
        """Writes the manifest's entry: the variant is finished, even if the next step fails."""
        name = self.variant.plan.variant
        targets = {} if self.targets is None else {"targets": self.targets.to_json()}
        made.variants[name] = {**_describe(self.variant, made.work, made.workspace), **targets}
        made.enter(name)
        made.workspace.manifest.write(made.work.folder)


def _describe(steps: VariantSteps, work: StepContext, workspace: Workspace) -> dict[str, Any]:
    name, manifest = steps.plan.variant, workspace.manifest
    plan = read_plan(work.folder / steps.plan.name)
    earlier = dict(_earlier(steps, work))
    if workspace.force:
        _drop_outdated(steps, earlier, workspace)
    formats = {**steps.formats, **{folder: step for folder, step in earlier.items() if _is_whole(step, workspace)}}
    reports = {folder: read_artifact(work.folder / name / parity_file(folder)) for folder in formats}
    fresh = {step.calibration.task: sum(map(len, step.token_ids(work))) for step in steps.hf.fresh}
    return {
        "task": plan.task,
        "weights": dict(plan.weights),
        **({"fresh_tokens": fresh} if fresh else {}),
        "method": plan.method,
        "requested_ratio": plan.requested_ratio,
        "achieved_ratio": plan.achieved_ratio,
        "num_parameters": plan.shrunk_spec(work.source.spec).num_parameters(),
        "precision": {folder: step.format.precision for folder, step in formats.items()},
        "bytes": {
            part: sum(manifest.files[path]["bytes"] for path in manifest.files_of(f"{name}/{part}"))
            for part in (HF, *formats)
        },
        "parity": {folder: {key: report[key] for key in _PARITY} for folder, report in reports.items()},
        "quality": settled_quality(workspace, name),
    }


def _earlier(steps: VariantSteps, work: StepContext) -> Iterator[tuple[str, FormatStep]]:
    """The folders of earlier exports that this one does not write, as steps from its model."""
    for folder in Export(work.folder).variant(steps.plan.variant).formats:
        if folder.name not in steps.formats:
            with suppress(ArtifactError):  # of a damaged folder, which the validation reports
                note = read_note(folder.path)
                grid = None if note is None else note.grid
                yield folder.name, format_step(steps.hf, folder.name, folder.format, grid)


def _drop_outdated(steps: VariantSteps, earlier: Mapping[str, FormatStep], workspace: Workspace) -> None:
    """Removes files that --force outdates: folders of another model, and roundings that no folder is written from."""
    name, recorded = steps.plan.variant, dict(workspace.manifest.steps)
    origins = {step.before.name for step in steps.formats.values()}
    for folder, step in earlier.items():
        if recorded.get(step.name, step.key) != step.key:
            workspace.remove(step.name)
            workspace.remove(f"{name}/{parity_file(folder)}")
            workspace.remove(f"{name}/{quality_file(folder)}")
        else:
            origins.add(step.before.name)
    for path in recorded:
        if path.startswith(f"{ROUNDING}/{name}/") and path not in origins:
            workspace.remove(path)


def _is_whole(step: FormatStep, workspace: Workspace) -> bool:
    """Whether a folder belongs to the same model and was compared."""
    keys = workspace.manifest.steps
    return keys.get(step.name) == step.key and f"{step.variant}/{parity_file(step.folder)}" in keys
