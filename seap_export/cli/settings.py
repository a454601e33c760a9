"""From option values to checked settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seap_export.corpus import parse_tasks
from seap_export.pipeline.export import ExportRequest
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings, PlanSettings
from seap_export.plan.sparsity import Sparsity

__all__ = ["calibration_settings", "export_request", "parity_settings", "plan_settings"]


def calibration_settings(options: dict[str, Any]) -> CalibrationSettings:
    """Takes its own options out of `options`."""
    return CalibrationSettings(
        **{name: options.pop(name) for name in ("samples", "held_out", "seed", "max_length", "batch_tokens")}
    )


def plan_settings(options: dict[str, Any]) -> PlanSettings:
    """Takes its own options out of `options`."""
    sparsity = Sparsity(
        kind=options.pop("sparsity"),
        **{name: options.pop(name) for name in ("k", "x0", "protect_first", "protect_last")},
    )
    return PlanSettings(options.pop("score"), sparsity, options.pop("align"), options.pop("compensate"))


def parity_settings(options: dict[str, Any]) -> ParitySettings:
    """Takes its own options out of `options`."""
    return ParitySettings(
        **{name: options.pop(name) for name in ("provider", "tolerance", "decode_steps", "prompts", "threads")}
    )


def export_request(tasks: Sequence[str], ratios: tuple[float, ...], options: dict[str, Any]) -> ExportRequest:
    """Takes the options of an export out of `options`."""
    return ExportRequest(
        tasks=parse_tasks(tasks),
        ratios=ratios,
        calibration=calibration_settings(options),
        plan=plan_settings(options),
        parity=parity_settings(options),
    )
