"""The main job: tasks and ratios in, one proven variant for each out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from converters.genai_config import genai_config
from converters.onnx_writer import refuse_unsupported
from seap_export.activations.statistics import Calibration
from seap_export.corpus import Split, Task
from seap_export.errors import ParityFailure, UsageError
from seap_export.pipeline.calibration import calibrate_tasks, split_tasks
from seap_export.pipeline.checks import refuse_full_disk, variant_bytes
from seap_export.pipeline.convert import convert_folder
from seap_export.pipeline.keys import calibration_key, hf_key, onnx_key, parity_key, plan_key
from seap_export.pipeline.manifest import read_artifact
from seap_export.pipeline.parity import check_parity, held_out_prompts, write_report
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.settings import (
    CalibrationSettings,
    ParitySettings,
    PlanSettings,
    calibration_step,
    variant_name,
)
from seap_export.pipeline.workspace import Workspace
from seap_export.plan.make import make_plan, score_layers
from seap_export.plan.plan import Plan, read_plan, write_plan
from seap_export.plan.solve import check_ratio
from seap_export.scores import LayerScores
from seap_export.shrink.write import write_shrunk_model
from seap_export.sources.source import Source

__all__ = ["ExportRequest", "export", "preview"]


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

    @property
    def variants(self) -> dict[str, float]:
        """The name of every variant that is asked for, and its ratio."""
        return {variant_name(task.name, ratio): ratio for task in self.tasks for ratio in self.ratios}


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
    workspace, splits, _ = _check(source, request, out, force)
    with workspace.locked():
        calibrations = calibrate_tasks(
            source, splits, request.calibration, workspace, progress, request.variants.keys()
        )
        run = _Run(source, request, workspace, progress)
        made: dict[str, Any] = {}
        for task, calibration in calibrations.items():
            workspace.manifest.tasks[task] = _describe_task(splits[task], calibration, request.calibration)
            made |= run.variants(calibration)
        workspace.manifest.complete = True
        workspace.manifest.write(workspace.folder)
    failed = [name for name, variant in made.items() if variant["parity"]["verdict"] != "passed"]
    if failed:
        more = f" (failed too: {', '.join(failed[1:])})" if len(failed) > 1 else ""
        raise ParityFailure(f"{failed[0]}: {made[failed[0]]['parity']['failure']}{more}")
    return made


def preview(source: Source, request: ExportRequest, out: Path, *, force: bool = False) -> list[dict[str, Any]]:
    """What `export` would make, after the same checks of the inputs; sizes follow from the requested ratios."""
    _, splits, done = _check(source, request, out, force)
    return [
        {
            "variant": name,
            "calibration_texts": len(splits[task].calibration),
            "held_out_texts": len(splits[task].held_out),
            "bytes_about": variant_bytes(source, ratio),
            "exists": name in done,
        }
        for task in splits
        for ratio in request.ratios
        for name in [variant_name(task, ratio)]
    ]


def _check(
    source: Source, request: ExportRequest, out: Path, force: bool
) -> tuple[Workspace, dict[str, Split], set[str]]:
    """Refuses what can be refused before any work; the folder, each task's split, and the variants already planned."""
    if request.parity.provider != "cpu":
        raise UsageError(
            "export writes float32 graphs, whose attention ONNX Runtime runs on the CPU only; use --provider cpu"
        )
    refuse_unsupported(source.spec)
    genai_config(source.spec, source.config, source.generation_config)  # refuses a model that names no EOS token
    for ratio in request.ratios:
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align)
    workspace = Workspace(out, force)
    splits = split_tasks(request.tasks, request.calibration)
    done = {
        variant_name(task, ratio)
        for task, split in splits.items()
        for ratio in request.ratios
        if workspace.is_done(f"{variant_name(task, ratio)}/plan.json", _plan_key(source, split, request, ratio))
    }
    missing = [ratio for name, ratio in request.variants.items() if name not in done]
    refuse_full_disk(sum(variant_bytes(source, ratio) for ratio in missing), out)
    return workspace, splits, done


def _plan_key(source: Source, split: Split, request: ExportRequest, ratio: float) -> str:
    statistics = calibration_key(source, split, request.calibration)
    return plan_key(statistics, request.plan, ratio, len(source.spec.layers))


class _Run:
    """The steps of one export, in order."""

    def __init__(self, source: Source, request: ExportRequest, workspace: Workspace, progress: Progress) -> None:
        self._source = source
        self._request = request
        self._workspace = workspace
        self._progress = progress

    def variants(self, calibration: Calibration) -> dict[str, Any]:
        """Makes all ratios of a task."""
        made = {}
        scores: list[LayerScores] | None = None
        task = calibration.record.task
        statistics_key = self._workspace.manifest.steps[calibration_step(task)]
        for ratio in self._request.ratios:
            name = variant_name(task, ratio)
            key = plan_key(statistics_key, self._request.plan, ratio, len(self._source.spec.layers))
            if not self._workspace.is_done(f"{name}/plan.json", key):
                scores = scores or self._scores(calibration)
                self._plan(name, key, calibration, scores, ratio)
            made[name] = self._variant(name, key, calibration)
            self._workspace.manifest.variants[name] = made[name]
        return made

    def _scores(self, calibration: Calibration) -> list[LayerScores]:
        with self._progress.bar(f"scoring {calibration.record.task}", len(self._source.spec.layers)) as advance:
            return score_layers(self._source, calibration, self._request.plan.score, advance)

    def _plan(self, name: str, key: str, calibration: Calibration, scores: list[LayerScores], ratio: float) -> None:
        plan = make_plan(self._source, calibration, scores, ratio=ratio, **vars(self._request.plan))
        with self._workspace.writing(f"{name}/plan.json", key, folder=False) as path:
            write_plan(plan, path)

    def _variant(self, name: str, key: str, calibration: Calibration) -> dict[str, Any]:
        folder = self._workspace.folder / name
        plan = read_plan(folder / "plan.json")
        key_of_hf = hf_key(key)
        key_of_onnx = onnx_key(key_of_hf)
        shrink = partial(write_shrunk_model, self._source, plan, calibration)
        self._layer_by_layer(f"{name}/hf", key_of_hf, f"{name}: shrinking", shrink)
        self._layer_by_layer(
            f"{name}/onnx", key_of_onnx, f"{name}: writing ONNX", partial(convert_folder, folder / "hf")
        )
        return self._describe(name, plan, self._parity(name, key_of_onnx, calibration))

    def _layer_by_layer(
        self, step: str, key: str, label: str, make: Callable[[Path, Callable[[int], None]], None]
    ) -> None:
        if self._workspace.is_done(step, key):
            return
        with (
            self._progress.bar(label, len(self._source.spec.layers)) as advance,
            self._workspace.writing(step, key, folder=True) as folder,
        ):
            make(folder, advance)

    def _parity(self, name: str, key_of_onnx: str, calibration: Calibration) -> dict[str, Any]:
        settings = self._request.parity
        folder = self._workspace.folder / name
        prompts = held_out_prompts([calibration], settings.prompts)
        key = parity_key(key_of_onnx, settings, prompts)
        if self._workspace.is_done(f"{name}/parity.json", key):
            self._progress.say(f"{name}: reused")
        else:
            self._progress.say(f"{name}: comparing ONNX Runtime with torch")
            report = check_parity(folder, prompts, settings)
            with self._workspace.writing(f"{name}/parity.json", key, folder=False) as path:
                write_report(report, path)
        return read_artifact(folder / "parity.json")

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
            "parity": {
                key: parity[key] for key in ("verdict", "failure", "max_abs", "top1_agreement", "mean_kl_nats")
            },
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
