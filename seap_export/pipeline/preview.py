"""What an export would make, how large it would be and how long it would take, without writing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.corpus import Sample, Split
from seap_export.pipeline.calibration import tokenize
from seap_export.pipeline.checks import variant_bytes
from seap_export.pipeline.estimate import Machine, Task, Workload, measure_machine, step_seconds
from seap_export.pipeline.export import ExportRequest, check_export
from seap_export.pipeline.performance import read_performance
from seap_export.pipeline.quality import QUALITY, QualityRequest
from seap_export.pipeline.settings import calibration_step
from seap_export.pipeline.sizes import weight_bytes
from seap_export.sources.source import Source
from validation.speed.interval import FEWEST_RUNS

__all__ = ["Preview", "preview"]


@dataclass(frozen=True)
class Preview:
    """What `export` would do.

    Attributes:
        variants: For each variant its name, its texts, its size in bytes and whether it exists already.
        seconds: Estimated time of each kind of step that remains to be done, in order.
    """

    variants: tuple[dict[str, Any], ...]
    seconds: Mapping[str, float]


def preview(source: Source, request: ExportRequest, out: Path, *, force: bool = False) -> Preview:
    """Makes the same checks of the inputs as `export`; sizes and times follow from the requested ratios.

    Raises:
        UsageError, InputError, EnvironmentFailure, ArtifactError: As for `export`; an input would be refused.
    """
    _, splits, done = check_export(source, request, out, force)
    rows = tuple(
        {
            "variant": name,
            "calibration_texts": sum(len(splits[task].calibration) for task in mixture.weights),
            "held_out_texts": sum(len(splits[task].held_out) for task in mixture.weights),
            "bytes_about": variant_bytes(source, ratio, request.form.precision),
            "exists": name in done,
        }
        for name, (mixture, ratio) in request.variants.items()
    )
    return Preview(rows, _seconds(source, request, out, splits, done))


def _seconds(
    source: Source, request: ExportRequest, out: Path, splits: Mapping[str, Split], done: set[str]
) -> dict[str, float]:
    tasks, machine = _tasks(source, request, splits), measure_machine()
    spec, precision = source.spec, request.form.precision
    work = Workload(
        spec=spec,
        eliminates=request.plan.score == "elimination",
        refits=request.plan.compensation == "sequential",
        long_tokens=min(request.parity.long_tokens, spec.max_position_embeddings),
        runs=FEWEST_RUNS,
        dense_bytes=weight_bytes(spec, source.reader.dtype, precision)["onnx"],
    )
    found: dict[str, float] = {}

    def add(step: str, names: Sequence[str], ratio: float, machine: Machine = machine) -> None:
        own = [tasks[name] for name in names]
        task = Task(sum(one.calibration_tokens for one in own), sum(one.held_out_tokens for one in own))
        found[step] = found.get(step, 0.0) + step_seconds(step, task, ratio, work, machine)

    for name in splits:
        if not (out / calibration_step(name)).exists():
            add("calibration", [name], 0.0)
    timed = read_performance(out).speed
    for mixture in request.all_mixtures:
        names = list(mixture.weights)
        variants = {name: ratio for name, (own, ratio) in request.variants.items() if own == mixture}
        if not variants.keys() <= done:
            add("ranking", names, 0.0)
        for name, ratio in variants.items():
            if not (out / name / "parity.json").exists():
                for step in ("shrinking", "onnx", "parity", "validation"):
                    add(step, names, ratio)
            if request.quality and not (out / name / QUALITY).exists():
                add("quality", names, ratio)
            if request.speed and name not in timed:
                add("speed", names, ratio)
    if "quality" in found:
        add("quality", list(splits), 0.0)
    if "speed" in found:
        add("speed", list(splits), 0.0)
    return found


def _tasks(source: Source, request: ExportRequest, splits: Mapping[str, Split]) -> dict[str, Task]:
    def count(texts: Mapping[str, Sequence[Sample]], max_length: int) -> dict[str, int]:
        return {name: sum(map(len, own)) for name, own in tokenize(source, texts, max_length).items()}

    calibration = count({name: own.calibration for name, own in splits.items()}, request.calibration.max_length)
    held_out = count({name: own.held_out for name, own in splits.items()}, QualityRequest().max_length)
    return {name: Task(calibration[name], held_out[name]) for name in splits}
