"""The main job: makes and checks one variant for each task and ratio."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from converters.form import OnnxForm
from converters.genai_config import genai_config
from converters.onnx_writer import refuse_unsupported
from seap_export.activations.mixture import Mixture
from seap_export.activations.statistics import Calibration, covariance_bytes
from seap_export.corpus import Split, Task
from seap_export.errors import UsageError
from seap_export.pipeline.calibration import calibrate_tasks, split_tasks
from seap_export.pipeline.checks import refuse_full_disk, refuse_missing_provider, variant_bytes
from seap_export.pipeline.dense_folder import dense_folder
from seap_export.pipeline.keys import calibration_key, plan_key
from seap_export.pipeline.manifest import MANIFEST, read_artifact
from seap_export.pipeline.mixtures import GENERAL, MixtureSpec
from seap_export.pipeline.outputs import write_whole
from seap_export.pipeline.performance import Performance, StepFigures, Timed, read_performance
from seap_export.pipeline.progress import Progress, Silent
from seap_export.pipeline.quality import DENSE_TEXTS, QUALITY, QualityRequest, measure_quality, settled_quality
from seap_export.pipeline.router import RouterSettings, make_router, refuse_lost_tasks
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings, calibration_step, variant_name
from seap_export.pipeline.speed import measure_speed, speed_request
from seap_export.pipeline.validate import ValidationRequest, validate
from seap_export.pipeline.validation_report import ValidationReport
from seap_export.pipeline.variants import VariantMaker
from seap_export.pipeline.workspace import Workspace
from seap_export.plan.recipes import PlanSettings
from seap_export.plan.solve import check_ratio
from seap_export.runtime.manifest import ROUTER_FOLDER
from seap_export.sources.source import Source
from validation.reports import html_page

__all__ = ["ExportRequest", "Exported", "check_export", "export"]


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


@dataclass(frozen=True)
class ExportRequest:
    """Everything that an export depends on except the model.

    Attributes:
        tasks: Tasks; each gets a variant for each ratio.
        ratios: Fractions of the weights to remove.
        mixtures: Variants for several tasks.
        calibration: How texts are sampled and run.
        plan: How heads and neurons are chosen and compensated.
        form: Precision, dialect and logits of the ONNX files.
        parity: How ONNX and torch are compared, and on which execution provider.
        router: Whether a router is made, if there are several tasks.
        threshold: The router's confidence, below which it takes the general variant.
        quality: Whether variants are compared with the dense model.
        speed: Whether variants are timed against the dense model.
    """

    tasks: tuple[Task, ...]
    ratios: tuple[float, ...]
    mixtures: tuple[MixtureSpec, ...] = ()
    calibration: CalibrationSettings = CalibrationSettings()
    plan: PlanSettings = PlanSettings()
    form: OnnxForm = OnnxForm()
    parity: ParitySettings = ParitySettings()
    router: bool = True
    threshold: float = 0.7
    quality: bool = True
    speed: bool = True

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UsageError("no task given; give at least one --task NAME=FILE")
        if not self.ratios:
            raise UsageError("no ratio given; give at least one, e.g. --ratio 0.2")
        names = [variant_name("", ratio) for ratio in self.ratios]
        if len(set(names)) < len(names):
            raise UsageError("a ratio is given twice; give each --ratio once")
        _router_settings(self)  # refuses an invalid threshold

    @property
    def all_mixtures(self) -> tuple[MixtureSpec, ...]:
        """The single tasks, and the mixtures."""
        return (*(MixtureSpec(task.name, {task.name: 1.0}) for task in self.tasks), *self.mixtures)

    @property
    def variants(self) -> dict[str, tuple[MixtureSpec, float]]:
        """The name of every requested variant, with its mixture and its ratio."""
        return {
            variant_name(mixture.name, ratio): (mixture, ratio)
            for mixture in self.all_mixtures
            for ratio in self.ratios
        }

    @property
    def router_settings(self) -> RouterSettings | None:
        """None if no router is made."""
        if not self.router or len(self.tasks) < 2:
            return None
        return _router_settings(self)


def _router_settings(request: ExportRequest) -> RouterSettings:
    return RouterSettings(request.calibration.seed, request.calibration.max_length, request.threshold)


def export(
    source: Source, request: ExportRequest, out: Path, *, force: bool = False, progress: Progress | None = None
) -> Exported:
    """Makes every variant that is not in `out` yet, measures and validates them.

    A variant that fails the validation is recorded in the report and raises no exception, so the others are finished.

    All inputs are checked before anything is written. Each step is written completely or not at all; a later
    run with the same inputs continues where an earlier one stopped.

    Raises:
        UsageError: The request contradicts itself, or would replace something without --force.
        InputError: The model or a corpus cannot be used.
        EnvironmentFailure: The execution provider, memory or disk space is missing.
        ArtifactError: A file in `out` is damaged.
    """
    workspace, splits, _ = check_export(source, request, out, force)
    timed = Timed(progress or Silent(), _planned(request))
    with workspace.locked():
        performance = read_performance(workspace.folder)
        try:
            made = _make(source, request, splits, workspace, timed)
            _route(source, request, splits, workspace, timed)
            _measure(source, request, made, workspace, performance, timed)
            workspace.manifest.complete = True
            workspace.manifest.write(workspace.folder)
            performance.write(workspace.folder)
            report = _validate(workspace.folder, request, made, timed)
        finally:  # the cost of finished steps is recorded even if a later one fails, unless the disk is full
            performance.steps |= timed.steps
            if (workspace.folder / MANIFEST).is_file():
                with suppress(OSError):
                    performance.write(workspace.folder)
    return Exported(made, report, timed.steps)


def _planned(request: ExportRequest) -> list[str]:
    """The names of all steps, in order."""
    steps = ["hashing", "calibration"]
    for mixture in request.all_mixtures:
        steps.append(f"ranking/{mixture.name}")
        names = [variant_name(mixture.name, ratio) for ratio in request.ratios]
        steps += [f"{name}/{part}" for name in names for part in ("hf", "onnx", "parity.json")]
    steps += [ROUTER_FOLDER] if request.router_settings else []
    steps += [DENSE_TEXTS, *(f"{name}/{QUALITY}" for name in request.variants)] if request.quality else []
    steps += ["speed"] if request.speed else []
    return [*steps, "validation"]


def _make(
    source: Source, request: ExportRequest, splits: Mapping[str, Split], workspace: Workspace, progress: Progress
) -> dict[str, Any]:
    """The variants, as the manifest describes them."""
    calibrations = calibrate_tasks(source, splits, request.calibration, workspace, progress, request.variants.keys())
    for task, calibration in calibrations.items():
        workspace.manifest.tasks[task] = _describe_task(splits[task], calibration, request.calibration)
    batch_tokens = request.calibration.batch_tokens
    maker = VariantMaker(source, request.plan, request.form, request.parity, batch_tokens, workspace, progress)
    made: dict[str, Any] = {}
    for mixture in request.all_mixtures:
        statistics = Mixture(mixture.name, mixture.weights, calibrations)
        made |= maker.variants(mixture, statistics, request.ratios)
    workspace.manifest.write(workspace.folder)  # the variants are finished, even if the next step fails
    return made


def _measure(
    source: Source,
    request: ExportRequest,
    made: dict[str, Any],
    workspace: Workspace,
    performance: Performance,
    progress: Progress,
) -> None:
    """Compares the variants with the dense model: first their predictions, then their speed."""
    keys = {name: workspace.manifest.steps[f"{name}/onnx"] for name in made}
    # The figures of a variant that failed parity would mean nothing.
    sound = {name: key for name, key in keys.items() if made[name]["parity"]["verdict"] == "passed"}
    with ExitStack() as stack:
        dense = cache(lambda: stack.enter_context(dense_folder(source)))  # takes time and disk space for a GGUF file
        if request.quality:
            settings = QualityRequest(request.parity.provider, request.parity.threads)
            measure_quality(source, dense, sound, settings, workspace, progress)
        for name in made:
            made[name]["quality"] = settled_quality(workspace, name, keys[name])
            workspace.manifest.variants[name] = made[name]
        if request.speed:
            bench = speed_request(source.spec, request.form, request.parity)
            folders = {workspace.folder / name: key for name, key in sound.items()}
            measure_speed(dense, folders, bench, performance, progress)


def _validate(folder: Path, request: ExportRequest, made: Mapping[str, Any], progress: Progress) -> ValidationReport:
    """Checks the variants as `seap-export validate` does, and writes the report next to them."""
    known = {name: read_artifact(folder / name / "parity.json") for name in made}
    asked = ValidationRequest(tuple(made), ("integrity", "parity", "router"), request.parity)
    with progress.step("validating the variants", name="validation"):
        report = validate(folder, asked, known_parity=known)
    values = report.to_json()
    texts = {"json": json.dumps(values, indent=1, ensure_ascii=False) + "\n", "html": html_page(values)}
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
    fallback = GENERAL if any(variant["task"] == GENERAL for variant in variants.values()) else None
    figures = make_router(source, splits, variants, settings, workspace, progress, fallback)
    held_out = figures["held_out"]
    if held_out["prompts"]:  # none if each is also a calibration prompt
        progress.say(f"router: {held_out['accuracy']:.1%} of {held_out['prompts']} held-out prompts go to their task")


def check_export(
    source: Source, request: ExportRequest, out: Path, force: bool
) -> tuple[Workspace, dict[str, Split], set[str]]:
    """Makes all checks that need no work; returns the folder, each task's split, and the variants already planned."""
    refuse_missing_provider(request.parity.provider)
    refuse_unsupported(source.spec, request.form)
    genai_config(source.spec, source.config, source.generation_config)  # refuses a model that names no EOS token
    for ratio in request.ratios:
        check_ratio(source.spec, ratio, request.plan.sparsity, request.plan.align, request.plan.layout)
    workspace = Workspace(out, force)
    splits = split_tasks(request.tasks, request.calibration)
    keys = {task: calibration_key(source, split, request.calibration) for task, split in splits.items()}
    done = {
        name
        for name, (mixture, ratio) in request.variants.items()
        if workspace.is_done(
            f"{name}/plan.json", plan_key(keys, mixture, request.plan, ratio, len(source.spec.layers))
        )
    }
    if request.router_settings is not None:
        refuse_lost_tasks(workspace, list(splits))
    missing = [ratio for name, (_, ratio) in request.variants.items() if name not in done]
    calibrations = [task for task in splits if not (out / calibration_step(task)).exists()]
    needed = sum(variant_bytes(source, ratio, request.form.precision) for ratio in missing)
    refuse_full_disk(needed + len(calibrations) * covariance_bytes(source.spec), out)
    return workspace, splits, done


def _describe_task(split: Split, calibration: Calibration, settings: CalibrationSettings) -> dict[str, Any]:
    return {
        "statistics": calibration_step(calibration.record.task),
        "seed": settings.seed,
        "max_length": settings.max_length,
        "calibration_texts": len(split.calibration),
        "calibration_tokens": calibration.record.num_tokens,
        "held_out_texts": len(split.held_out),
    }
