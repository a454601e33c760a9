"""The main job: tasks and ratios in, one proven variant for each out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from seap_export.activations.statistics import Calibration
from seap_export.corpus import Split, Task
from seap_export.errors import EnvironmentFailure, ParityFailure, UsageError
from seap_export.families import ModelSpec
from seap_export.hashing import sha256_json
from seap_export.pipeline.calibration import calibrate_tasks, calibration_key, calibration_step, split_tasks
from seap_export.pipeline.convert import convert_folder
from seap_export.pipeline.parity import check_parity, held_out_prompts, write_report
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings, PlanSettings, variant_name
from seap_export.pipeline.workspace import Workspace
from seap_export.plan.make import make_plan, score_layers
from seap_export.plan.plan import PLAN_SCHEMA, Plan, read_plan, write_plan
from seap_export.plan.solve import check_ratio
from seap_export.scores import LayerScores
from seap_export.shrink.write import write_shrunk_model
from seap_export.sources.config import read_json
from seap_export.sources.source import Source

__all__ = ["ExportRequest", "export", "preview"]

#: Raised when the same inputs give other bytes than before, so that older steps are not reused.
_SHRINK_VERSION = 1
_CONVERT_VERSION = 1
#: Bytes of a weight in the ONNX data file (float32).
_ONNX_ITEMSIZE = 4


@dataclass(frozen=True)
class ExportRequest:
    """All that an export depends on, beside the model."""

    tasks: tuple[Task, ...]
    ratios: tuple[float, ...]
    calibration: CalibrationSettings = CalibrationSettings()
    plan: PlanSettings = PlanSettings()
    parity: ParitySettings = ParitySettings()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no task given; give at least one --task NAME=FILE")
        if not self.ratios:
            raise UsageError("no ratio given; give at least one, e.g. --ratio 0.2")
        names = [variant_name("", ratio) for ratio in self.ratios]
        if len(set(names)) < len(names):
            raise UsageError("a ratio is given twice")


def export(
    source: Source, request: ExportRequest, out: Path, *, force: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Makes every variant that is not in `out` yet, checks its parity and returns the variants of the manifest.

    All inputs are checked before anything is written. Each step is written whole; a later run with the same
    inputs goes on where an earlier one stopped.

    Raises:
        SeapError: Of the kind that fits; a `ParityFailure` comes after all variants are done.
    """
    progress = progress or Silent()
    for ratio in request.ratios:
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align)
    workspace = Workspace(out, force)
    splits = split_tasks(request.tasks, request.calibration)
    progress.say(f"hashing {source.name}")
    _refuse_other_source(workspace, source, force)
    _refuse_full_disk(source.spec, source.reader.dtype.itemsize, len(request.tasks) * len(request.ratios), out)
    with workspace:
        workspace.manifest.source = _describe_source(source)
        calibrations = calibrate_tasks(source, splits, request.calibration, workspace, progress)
        run = _Run(source, request, workspace, progress)
        made = {}
        for task, calibration in calibrations.items():
            workspace.manifest.tasks[task] = _describe_task(splits[task], calibration, request.calibration)
            made |= run.variants(calibration, calibration_key(source, splits[task], request.calibration))
        workspace.manifest.variants |= made
        workspace.manifest.complete = True
        workspace.manifest.write(workspace.folder)
    failed = [name for name, variant in made.items() if variant["parity"]["verdict"] != "passed"]
    if failed:
        raise ParityFailure(f"{failed[0]}: {made[failed[0]]['parity']['failure']}" + _more(failed))
    return made


def preview(source: Source, request: ExportRequest) -> list[dict[str, Any]]:
    """What `export` would make, from the same checks; sizes follow from the requested ratios."""
    for ratio in request.ratios:
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align)
    prunable = sum(source.spec.prunable_weights(layer) for layer in range(len(source.spec.layers)))
    return [
        {
            "variant": variant_name(task, ratio),
            "calibration_texts": len(split.calibration),
            "held_out_texts": len(split.held_out),
            "bytes_about": round(
                (source.spec.num_parameters() - ratio * prunable) * (source.reader.dtype.itemsize + _ONNX_ITEMSIZE)
            ),
        }
        for task, split in split_tasks(request.tasks, request.calibration).items()
        for ratio in request.ratios
    ]


def _more(failed: Sequence[str]) -> str:
    return f" (failed too: {', '.join(failed[1:])})" if len(failed) > 1 else ""


class _Run:
    """The steps of one export, in order."""

    def __init__(self, source: Source, request: ExportRequest, workspace: Workspace, progress: Progress) -> None:
        self._source = source
        self._request = request
        self._workspace = workspace
        self._progress = progress

    def variants(self, calibration: Calibration, key: str) -> dict[str, Any]:
        """Makes all ratios of a task."""
        made = {}
        scores: list[LayerScores] | None = None
        for ratio in self._request.ratios:
            name = variant_name(calibration.record.task, ratio)
            plan_key = sha256_json([PLAN_SCHEMA, key, asdict(self._request.plan), ratio])
            if not self._workspace.is_done(f"{name}/plan.json", plan_key):
                if scores is None:
                    scores = self._scores(calibration)
                self._plan(name, plan_key, calibration, scores, ratio)
            made[name] = self._variant(name, plan_key, calibration)
        return made

    def _scores(self, calibration: Calibration) -> list[LayerScores]:
        with self._progress.bar(f"scoring {calibration.record.task}", len(self._source.spec.layers)) as advance:
            return score_layers(self._source, calibration, self._request.plan.score, advance)

    def _plan(self, name: str, key: str, calibration: Calibration, scores: list[LayerScores], ratio: float) -> None:
        settings = self._request.plan
        plan = make_plan(
            self._source,
            calibration,
            scores,
            score=settings.score,
            ratio=ratio,
            sparsity=settings.sparsity,
            align=settings.align,
            compensation=settings.compensation,
        )
        with self._workspace.writing(f"{name}/plan.json", key, folder=False) as path:
            write_plan(plan, path)

    def _variant(self, name: str, plan_key: str, calibration: Calibration) -> dict[str, Any]:
        folder = self._workspace.folder / name
        plan = read_plan(folder / "plan.json")
        hf_key = sha256_json(["hf", _SHRINK_VERSION, plan_key])
        onnx_key = sha256_json(["onnx", _CONVERT_VERSION, hf_key])
        layers = len(plan.layers)
        if not self._workspace.is_done(f"{name}/hf", hf_key):
            with (
                self._progress.bar(f"{name}: shrinking", layers) as advance,
                self._workspace.writing(f"{name}/hf", hf_key, folder=True) as target,
            ):
                write_shrunk_model(self._source, plan, calibration, target, advance)
        if not self._workspace.is_done(f"{name}/onnx", onnx_key):
            with (
                self._progress.bar(f"{name}: writing ONNX", layers) as advance,
                self._workspace.writing(f"{name}/onnx", onnx_key, folder=True) as target,
            ):
                convert_folder(folder / "hf", target, advance)
        parity = self._parity(name, onnx_key, calibration)
        return self._describe(name, plan, parity)

    def _parity(self, name: str, onnx_key: str, calibration: Calibration) -> dict[str, Any]:
        settings = self._request.parity
        folder = self._workspace.folder / name
        prompts = held_out_prompts(calibration, settings.prompts)
        key = sha256_json(["parity", onnx_key, asdict(settings), prompts])
        if not self._workspace.is_done(f"{name}/parity.json", key):
            self._progress.say(f"{name}: comparing ONNX Runtime with torch")
            report = check_parity(folder, prompts, settings)
            with self._workspace.writing(f"{name}/parity.json", key, folder=False) as path:
                write_report(report, path)
        return read_json(folder / "parity.json")

    def _describe(self, name: str, plan: Plan, parity: dict[str, Any]) -> dict[str, Any]:
        files = self._workspace.manifest.files
        spec = plan.shrunk_spec(self._source.spec)
        return {
            "task": plan.task,
            "requested_ratio": plan.requested_ratio,
            "achieved_ratio": plan.achieved_ratio,
            "num_parameters": spec.num_parameters(),
            "bytes": {
                part: sum(entry["bytes"] for path, entry in files.items() if path.startswith(f"{name}/{part}/"))
                for part in ("hf", "onnx")
            },
            "parity": {key: parity[key] for key in ("verdict", "failure", "max_abs", "top1_agreement", "mean_kl_nats")},
        }


def _describe_source(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "sha256": source.digest,
        "family": source.spec.family.model_type,
        "num_parameters": source.spec.num_parameters(),
        "prunable_weights": sum(source.spec.prunable_weights(layer) for layer in range(len(source.spec.layers))),
    }


def _describe_task(split: Split, calibration: Calibration, settings: CalibrationSettings) -> dict[str, Any]:
    return {
        "statistics": calibration_step(calibration.record.task),
        "seed": settings.seed,
        "max_length": settings.max_length,
        "calibration_texts": len(split.calibration),
        "calibration_tokens": calibration.record.num_tokens,
        "held_out_texts": len(split.held_out),
    }


def _refuse_other_source(workspace: Workspace, source: Source, force: bool) -> None:
    recorded: Mapping[str, Any] = workspace.manifest.source
    if recorded and recorded["sha256"] != source.digest and not force:
        raise UsageError(
            f"{workspace.folder} holds variants of another model ('{recorded['name']}'); use another --out, or --force"
        )


def _refuse_full_disk(spec: ModelSpec, itemsize: int, variants: int, out: Path) -> None:
    """Refuses before the work begins what certainly will not fit: at most, no variant is smaller than this."""
    outer = sum(a * b for a, *rest in spec.outer_tensors().values() for b in (rest or [1]))
    least = variants * outer * (itemsize + _ONNX_ITEMSIZE)
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < least:
        raise EnvironmentFailure(
            f"{out}: at least {least / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free; free some space"
        )
