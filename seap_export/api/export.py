"""`export`: prunes a model for each task and ratio, writes the variants and checks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seap_export.api.options import RunOptions
from seap_export.api.results import ExportResult
from seap_export.api.variant import Variant
from seap_export.common.options import option, options, takes
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError
from seap_export.pipeline.request.export_request import ExportRequest


@options
class ExportOptions(RunOptions, ExportRequest):
    """All options of an export."""

    cluster: str | None = option(
        "Make the steps on the machines of a Ray cluster; --threads is the number of CPUs of a step.",
        default=None,
        title="Machine",
        rare=True,
        metavar="local|ray://HOST:PORT",
    )


@takes(ExportOptions)
def export(options: ExportOptions) -> ExportResult:
    """Prunes a model for each task and ratio, writes the variants, and checks them, as `seap-export export` does.

    Everything is written to `out`, where a second call, or the command, continues what one before it has begun. If a
    check fails, nothing is raised: the variants and their figures are there, `passed` of the result is False, and
    `failure` says why.

    Example:
        >>> from seap_export import export
        >>> texts = [f"What is {a} + {b}? {a + b}" for a in range(20) for b in range(20)]
        >>> result = export("MODEL", {"maths": texts}, ratio=[0.2, 0.5], out="pruned")
        >>> assert result.passed, result.failure
        >>> for name, variant in result.variants.items():
        ...     print(name, variant.figures.num_parameters, variant.figures.kl.mean)

    Args:
        The fields of `ExportOptions`.

    Returns:
        The variants with their figures, and the outcome of the checks; of a dry run, what is `planned`.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: Arguments contradict each other, or something would be replaced without `force`.
        InputError: The model or a text cannot be used.
        EnvironmentFailure: A library, the provider, memory or disk space is missing.
        ArtifactError: A file in `out` is damaged.
        QualityFailure, SpeedFailure: The targets cannot be met.
    """
    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import cluster_of
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.budget.run import export_within
    from seap_export.pipeline.card.command import whole_command
    from seap_export.pipeline.card.recipe import given_as
    from seap_export.pipeline.cost.checks import recorded_model
    from seap_export.pipeline.export import export as make_variants
    from seap_export.pipeline.folder.names import output_named_after
    from seap_export.pipeline.preview import preview

    compute, cluster = cluster_of(options)
    request, progress = options, options.progress
    out = options.out or output_named_after(options.model)
    if options.out is None:
        progress.say(f"writing to {out}, since --out names no folder")
    if request.measured is None:
        progress.say(
            "quality and speed are not measured on hf alone: they need a further format, such as --format "
            f"{OWN_FORMAT}"
        )
    source = open_source(recorded_model(options.model, out))
    warn_of_memory(progress, source, compute)
    if request.targets is not None and cluster is not None:
        raise UsageError("--cluster makes variants of given ratios only; leave it out, or give --ratio")
    if options.dry_run:
        planned = preview(source, request, out, force=options.force, compute=compute, progress=progress)
        return ExportResult(out, planned=planned)
    inputs, force = (source, request, out), options.force
    frontier: Mapping[str, Any] | None = None
    if request.targets is None:
        exported = make_variants(*inputs, force=force, compute=compute, cluster=cluster, progress=progress)
    else:
        within = export_within(*inputs, force=force, compute=compute, progress=progress)
        exported, frontier = within.exported, within.frontier
    described = exported.report.variants
    variants = {name: Variant.described(out / name, described[name]) for name in exported.variants}
    commands = {
        name: whole_command(
            str(options.model),
            request,
            row["task"],
            row["precision"],
            row["options"],
            lambda task: task.given_as or given_as(task, request),
            str(out),
        )
        for name, row in exported.report.whole.items()
    }
    return ExportResult(out, variants, exported.report, exported.steps, exported.variants, commands, frontier)
