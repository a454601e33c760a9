"""Measures the speed of variants in an export, and converts it for reports and the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seap_export.common.hashing import sha256_json
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME
from seap_export.model.families import ModelSpec
from seap_export.pipeline.evaluation.bench_request import BenchRequest
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.runtime.doctor.machine import processor
from seap_export.runtime.providers import device_name
from seap_export.runtime.session import available_threads
from validation.speed.gate import SpeedLimits, SpeedVerdict
from validation.speed.interval import FEWEST_RUNS
from validation.speed.measure import SpeedCell
from validation.speed.report import SpeedReport, SubjectFigures

_DEPTH, _STEPS = 128, 16
#: What every cell of recorded figures has, and what those of a variant have too.
_TIMES = ("batch", "depth", "prefill_ms", "decode_ms_per_token")
_SPEEDUPS = tuple(
    f"{what}_{figure}" for what in ("prefill", "decode") for figure in ("speedup", "ideal_speedup", "share_of_ideal")
)


def speed_request(
    spec: ModelSpec, measured: Measured, settings: ParitySettings, prompts: tuple[int, ...] = ()
) -> BenchRequest:
    """A short measurement: one prompt of 128 tokens, or as many as the model's context allows, and 16 decode steps."""
    steps = max(1, min(_STEPS, spec.max_position_embeddings // 2))
    return BenchRequest(
        depths=tuple(dict.fromkeys([max(1, min(_DEPTH, spec.max_position_embeddings - steps)), *prompts])),
        batches=(1,),
        engines=(measured.runtime,),
        formats=(measured.format,),
        provider=measured.provider(settings.provider),
        threads=settings.threads,
        runs=FEWEST_RUNS,
        steps=steps,
        memory=False,
    )


def speed_setting(request: BenchRequest) -> str:
    """The hash of the machine and of how it is measured: figures are used again where both are the same."""
    return sha256_json([processor(), device_name(request.provider), available_threads(), repr(request)])


def recorded_speed(variant: Variant) -> dict[str, Any] | None:
    """The speed figures of a variant; None if the folder that was timed is no longer as the manifest records it.

    performance.json has no hash, so figures that are not as `speed_json` writes them count as not measured.
    """
    known = variant.export.performance.speed.get(variant.name, {})
    figures: dict[str, Any] | None = known.get("figures")
    if not are_sound(figures):
        return None
    assert figures is not None
    folder = figures.get("folder", OWN_FORMAT)
    key = variant.export.manifest.steps.get(f"{variant.name}/{folder}")
    return figures if key is not None and known.get(folder) == key else None


def are_sound(figures: Any) -> bool:
    """Whether recorded figures are as `speed_json` writes them."""
    try:
        is_named = all(isinstance(figures.get(key, ""), str) for key in ("folder", "runtime"))
        return (
            is_named
            and bool(figures["dense"] and figures["variant"])
            and all(
                isinstance(cell[key], int | float)
                for cells, keys in (("dense", _TIMES), ("variant", (*_TIMES, *_SPEEDUPS)))
                for cell in figures[cells]
                for key in keys
            )
        )
    except (AttributeError, KeyError, TypeError):
        return False


def speed_json(
    report: SpeedReport,
    name: str,
    limits: SpeedLimits | None = None,
    verdicts: Sequence[SpeedVerdict] = (),
    engine: str = OWN_RUNTIME,
) -> dict[str, Any]:
    """The speed of a variant as a validation report and performance.json record it.

    Args:
        limits: The requested limits; None: no limits, the figures are only reported.
    """
    variant = next(subject for subject in report.subjects if (subject.model, subject.engine) == (name, engine))
    return {
        "limits": {} if limits is None else vars(limits),
        "verdicts": [
            {
                "figure": verdict.figure,
                "batch": None if verdict.cell is None else verdict.cell.batch,
                "depth": None if verdict.cell is None else verdict.cell.depth,
                "found": verdict.measured,
                **{key: getattr(verdict, key) for key in ("limit", "low", "high", "verdict")},
            }
            for verdict in verdicts
        ],
        "dense": [_times(report.dense(engine), cell) for cell in report.cells],
        "variant": [
            {
                **_times(variant, cell),
                **report.prefill(variant, cell).to_json("prefill"),
                **report.decode(variant, cell).to_json("decode"),
            }
            for cell in report.cells
        ],
    }


def _times(subject: SubjectFigures, cell: SpeedCell) -> dict[str, Any]:
    timing = subject.timings[cell]
    return {
        "batch": cell.batch,
        "depth": cell.depth,
        "prefill_ms": 1e3 * timing.prefill_s,
        "decode_ms_per_token": 1e3 * timing.step_s,
    }
