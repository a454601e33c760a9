"""Turns option values into checked settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converters.form import OnnxForm
from converters.widths import whole_blocks
from seap_export.cli.form import form_of
from seap_export.corpus import parse_tasks
from seap_export.errors import UsageError
from seap_export.pipeline.export import ExportRequest
from seap_export.pipeline.mixtures import parse_mixtures
from seap_export.pipeline.settings import CalibrationSettings, ParitySettings
from seap_export.plan.recipes import PlanSettings, Target, open_recipe
from validation.profiles import Limits, read_limits

__all__ = ["calibration_settings", "export_request", "parity_settings", "plan_settings"]


def calibration_settings(options: dict[str, Any]) -> CalibrationSettings:
    """Removes its options from `options`."""
    return CalibrationSettings(
        **{name: options.pop(name) for name in ("samples", "held_out", "seed", "max_length", "batch_tokens")}
    )


def plan_settings(options: dict[str, Any], target: Target) -> PlanSettings:
    """Removes its options from `options`.

    Raises:
        UsageError: There is no such recipe, or it holds an invalid value.
    """
    return open_recipe(options.pop("recipe"), layout=options.pop("layout"), target=target)


def _target(form: OnnxForm) -> Target:
    return Target(form.provider, whole_blocks(form), groups_heads=form.dialect == "fused")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def parity_settings(options: dict[str, Any]) -> ParitySettings:
    """Removes its options from `options`."""
    file = options.pop("limits")
    names = ("provider", "decode_steps", "prompts", "long_tokens", "threads")
    values = {name: options.pop(name) for name in names}
    return ParitySettings(**values, limits=Limits() if file is None else read_limits(file))


def export_request(tasks: Sequence[str], ratios: tuple[float, ...], options: dict[str, Any]) -> ExportRequest:
    """Removes the options of an export from `options`."""
    parsed = parse_tasks(tasks)
    names = [task.name for task in parsed]
    mixtures = {name: options.pop(name) for name in ("general", "weights", "mixes")}
    form = form_of(options)
    router, threshold = options.pop("router"), options.pop("threshold")
    if threshold is not None and not router:
        raise UsageError("the threshold has no effect without a router; set router to true, or remove the threshold")
    return ExportRequest(
        tasks=parsed,
        mixtures=parse_mixtures(names, **mixtures),
        router=router,
        **_given({"threshold": threshold}),
        ratios=ratios,
        calibration=calibration_settings(options),
        plan=plan_settings(options, _target(form)),
        form=form,
        parity=parity_settings(options),
        quality=options.pop("quality"),
        speed=options.pop("speed"),
    )
