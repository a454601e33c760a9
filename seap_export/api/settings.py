"""Turns the options of the API into the checked settings that the pipeline takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from converters.form_options import FormOptions
from converters.format import Format
from seap_export.api.export_options import ExportOptions
from seap_export.api.formats import all_formats_of, formats_of
from seap_export.api.options import BatchOptions, ComparisonOptions, ComputeOptions
from seap_export.common.options import part, values_of
from seap_export.errors import UsageError, refuse_threads
from seap_export.model.layers.compute import Compute, choose_compute, parse_bytes
from seap_export.model.vocabulary.choice import parse_size
from seap_export.pipeline.cluster.connection import Cluster
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.mixtures import parse_mixtures, parse_support
from seap_export.pipeline.request.options import CalibrationSettings, ParityOptions, VariantOptions
from seap_export.pipeline.request.settings import ParitySettings, RouterSettings
from seap_export.pipeline.targets.first_token import FirstToken
from seap_export.pipeline.targets.targets import Targets
from seap_export.pruning.plan.recipes import Target, open_recipe
from validation.parity.profiles import Limits, read_limits


def compute_of(options: ComputeOptions) -> Compute:
    """The device that torch computes on, and the limits of memory and batch size.

    Raises:
        UsageError: The device, the size or the number of threads is not a valid one.
        EnvironmentFailure: torch cannot use the GPU.
    """
    refuse_threads(options.threads)
    if isinstance(options, BatchOptions):
        return choose_compute(options.device, options.memory, options.batch_tokens)
    return choose_compute(options.device, options.memory)


def cluster_of(options: ExportOptions) -> tuple[Compute, Cluster | None]:
    """The device of this machine, and the cluster that makes the steps; None without an address.

    Workers choose their device by themselves; this machine computes nothing but what is measured.

    Raises:
        UsageError: The address, the device or the size is not a valid one.
        EnvironmentFailure: Ray is not installed, or torch cannot use the GPU.
    """
    if options.cluster is None:
        return compute_of(options), None
    memory, threads, provider = options.memory, options.threads, options.provider
    cluster = Cluster(options.cluster, options.model, options.device, memory, threads, provider)
    return choose_compute("cpu", memory, options.batch_tokens), cluster


def parity_settings(options: ComparisonOptions, provider: str, threads: int | None) -> ParitySettings:
    """The settings of parity: sizes, limits, provider and threads.

    Raises:
        UsageError: The file of limits cannot be used.
    """
    limits = Limits() if options.limits is None else read_limits(options.limits)
    return ParitySettings(**values_of(ParityOptions, options), provider=provider, limits=limits, threads=threads)


def export_request(options: ExportOptions) -> ExportRequest:
    """Turns the options of an export into its request.

    Raises:
        UsageError: Options contradict each other, or a value is out of range.
        InputError, EnvironmentFailure: A corpus or another file cannot be used.
    """
    targets, tasks = _targets(options), [task.name for task in options.tasks]
    names, form = [text for text in options.format if text != "hf"], part(FormOptions, options)
    of_prompts = targets is not None and targets.first_token is not None
    formats = formats_of(names, form) if targets is None else all_formats_of(names, form, of_prompts=of_prompts)
    if targets is not None and options.rounding == "nearest":  # which chooses no bits
        formats = tuple(format for format in formats if format.average is None)
    if options.threshold is not None and not options.router:
        raise UsageError("the threshold has no effect without a router; set router to true, or remove the threshold")
    calibration = part(CalibrationSettings, options)
    plan = open_recipe(options.recipe, layout=options.layout, target=_target(formats))
    if (calibration.samples, calibration.calibration_tokens) == (None, None):
        calibration = replace(calibration, calibration_tokens=plan.calibration_tokens)
    return ExportRequest(
        **values_of(VariantOptions, options),
        tasks=options.tasks,
        mixtures=parse_mixtures(tasks, general=options.general, weights=options.weight, mixes=options.mix),
        support=None if options.support is None else parse_support(options.support, tasks),
        router=options.router,
        threshold=RouterSettings.threshold if options.threshold is None else options.threshold,
        ratios=options.ratio,
        calibration=calibration,
        plan=plan,
        vocabulary=parse_size(str(options.vocabulary)),
        formats=formats,
        parity=parity_settings(options, options.provider, options.threads),
        quality=bool(formats) if options.quality is None else options.quality,
        speed=bool(formats) if options.speed is None else options.speed,
        targets=targets,
    )


def _target(formats: Sequence[Format]) -> Target:
    """The target of pruned widths: that of the first format for which they matter, and whole blocks in all of them."""
    targets = [format.target for format in formats if format.target is not None] or [Target()]
    return replace(targets[0], block_size=math.lcm(*(target.block_size for target in targets)))


def _targets(options: ExportOptions) -> Targets | None:
    """The targets of an export; None if there are none.

    Raises:
        UsageError: A target is malformed or out of range.
    """
    size, decode_speedup, max_kl = options.target_size, options.target_decode_speedup, options.max_kl
    first_token = None if options.target_first_token is None else FirstToken.parse(options.target_first_token)
    if (size, decode_speedup, max_kl, first_token) == (None, None, None, None):
        return None
    return Targets(None if size is None else parse_bytes(size), decode_speedup, max_kl, first_token)
