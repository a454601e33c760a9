"""Turns option values into checked settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from converters.format import Format
from seap_export.api.formats import all_formats_of, formats_of
from seap_export.corpus import Task
from seap_export.errors import UsageError
from seap_export.model.layers.compute import Compute, choose_compute, parse_bytes
from seap_export.model.vocabulary.choice import parse_size
from seap_export.pipeline.cluster.connection import Cluster
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.mixtures import parse_mixtures, parse_support
from seap_export.pipeline.request.settings import CalibrationSettings, ParitySettings
from seap_export.pipeline.targets.targets import Targets
from seap_export.pruning.plan.recipes import Target, open_recipe
from seap_export.pruning.plan.settings import PlanSettings
from validation.parity.profiles import Limits, read_limits


def compute_of(options: dict[str, Any]) -> Compute:
    """The device and its limits; removes their options from `options`.

    Raises:
        UsageError: The device or the size is not a valid one.
        EnvironmentFailure: torch cannot use the GPU.
    """
    batch_tokens = options.pop("batch_tokens", None)
    more = {} if batch_tokens is None else {"batch_tokens": batch_tokens}
    return choose_compute(options.pop("device"), options.pop("memory"), **more)


def cluster_of(address: str | None, model: str, options: dict[str, Any]) -> tuple[Compute, Cluster | None]:
    """Where the steps are made: as `compute_of`, and the cluster if there is an address.

    Workers choose their device by themselves; this machine computes nothing but what is measured.

    Raises:
        UsageError: The address, the device or the size is not a valid one.
        EnvironmentFailure: Ray is not installed, or torch cannot use the GPU.
    """
    if address is None:
        return compute_of(options), None
    device, memory = options.pop("device"), options.pop("memory")
    cluster = Cluster(address, model, device, memory, options["threads"], options["provider"])
    return choose_compute("cpu", memory, options.pop("batch_tokens")), cluster


def calibration_settings(options: dict[str, Any]) -> CalibrationSettings:
    """Removes its options from `options`."""
    names = ("samples", "calibration_tokens", "held_out", "seed", "max_length", "answers", "answer_tokens")
    return CalibrationSettings(**{name: options.pop(name) for name in names if name in options})


def plan_settings(options: dict[str, Any], target: Target) -> PlanSettings:
    """Removes its options from `options`.

    Raises:
        UsageError: There is no such recipe, or it holds an invalid value.
    """
    return open_recipe(options.pop("recipe"), layout=options.pop("layout"), target=target)


def _target(formats: Sequence[Format]) -> Target:
    """What the widths should suit: the first format for which they matter."""
    return next((format.target for format in formats if format.target is not None), Target())


def parity_settings(options: dict[str, Any]) -> ParitySettings:
    """Removes its options from `options`."""
    file = options.pop("limits")
    names = ("provider", "decode_steps", "prompts", "long_tokens", "threads")
    values = {name: options.pop(name) for name in names}
    return ParitySettings(**values, limits=Limits() if file is None else read_limits(file))


def export_request(options: dict[str, Any]) -> ExportRequest:
    """Removes the options of an export from `options`.

    Raises:
        UsageError: Options contradict each other, or a value is out of range.
        InputError, EnvironmentFailure: A corpus or another file cannot be used.
    """
    tasks: tuple[Task, ...] = options.pop("tasks")
    names = [task.name for task in tasks]
    mixtures = {"general": options.pop("general"), "weights": options.pop("weight"), "mixes": options.pop("mix")}
    support = options.pop("support")
    format_names = options.pop("format")
    targets = _targets(options)
    chosen_from = formats_of if targets is None else all_formats_of
    formats = chosen_from([text for text in format_names if text != "hf"], options)
    quality, speed = options.pop("quality"), options.pop("speed")  # None: if anything can be measured
    router, threshold = options.pop("router"), options.pop("threshold")
    if threshold is not None and not router:
        raise UsageError("the threshold has no effect without a router; set router to true, or remove the threshold")
    calibration, plan = calibration_settings(options), plan_settings(options, _target(formats))
    if (calibration.samples, calibration.calibration_tokens) == (None, None):
        calibration = replace(calibration, calibration_tokens=plan.calibration_tokens)
    return ExportRequest(
        tasks=tasks,
        mixtures=parse_mixtures(names, **mixtures),
        rounding=options.pop("rounding"),
        support=None if support is None else parse_support(support, names),
        router=router,
        **({} if threshold is None else {"threshold": threshold}),
        ratios=options.pop("ratio"),
        calibration=calibration,
        plan=plan,
        vocabulary=parse_size(str(options.pop("vocabulary"))),
        formats=formats,
        parity=parity_settings(options),
        general_text=options.pop("general_text"),
        quality=bool(formats) if quality is None else quality,
        speed=bool(formats) if speed is None else speed,
        targets=targets,
    )


def _targets(options: dict[str, Any]) -> Targets | None:
    """Removes their options from `options`; None: there are none.

    Raises:
        UsageError: A target is malformed or out of range.
    """
    size, decode_speedup, max_kl = (options.pop(name) for name in ("target_size", "target_decode_speedup", "max_kl"))
    if (size, decode_speedup, max_kl) == (None, None, None):
        return None
    return Targets(None if size is None else parse_bytes(size), decode_speedup, max_kl)
