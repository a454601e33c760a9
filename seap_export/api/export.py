"""`export`: the main job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from converters.format import FormOptions
from converters.formats import WRITTEN
from seap_export.api.options import BatchOptions, ComparisonOptions, RunOptions, TaskOptions
from seap_export.api.results import ExportResult
from seap_export.api.variant import Variant
from seap_export.common.options import option, options, takes
from seap_export.common.providers import OWN_FORMAT
from seap_export.common.toml_file import either
from seap_export.common.values import FilePath, Fractions, NameOrPath, NameOrPathOrNone, Several, ShareOrNone, Weights
from seap_export.errors import UsageError
from seap_export.pipeline.request.options import CalibrationSettings, VariantOptions


@options
class MainOptions(TaskOptions):
    """What is made of the tasks, and whether it is measured."""

    general: bool = option("Also make a variant for all tasks together.", default=False, title="Model and tasks")
    support: NameOrPathOrNone = option(
        "General text to calibrate every variant on as well; SHARE is its weight beside the task's.  [default "
        "share: 0.3]",
        default=None,
        python="General text that every variant is made from as well, as SOURCE or SOURCE:SHARE; None: there is none.",
        title="Model and tasks",
        rare=True,
        metavar="SOURCE[:SHARE]",
    )
    weight: Weights = option(
        "Weight of a task among several. Repeatable.",
        default=(),
        unset="1",
        python='The weights of tasks in the variant for all, such as {"maths": 2}; 1 by default.',
        metavar="TASK=W",
    )
    mix: Weights = option(
        "Also make a variant for some of the tasks, such as mix.both = { maths = 2, chat = 1 }.",
        default=(),
        python='Further variants for some of the tasks, such as {"both": {"maths": 2, "wiki": 1}}.',
        metavar="NAME=TASK:W,...",
    )

    ratio: Fractions = option(
        "Fraction of the attention and MLP weights to remove, such as 0.2 or 20%. Repeatable. A target replaces it.",
        default=(),
        python="Fraction of all attention and MLP weights to remove; one or several. A target replaces it.",
        title="Size",
        metavar="R",
    )
    target_size: str | None = option(
        "Target: largest size of the written folder, such as 60MB. Ratio and precision are chosen.",
        default=None,
        title="Size",
        metavar="SIZE",
    )
    target_decode_speedup: float | None = option(
        "Target: smallest speed-up of a decode step over the dense model in the usual precision. Ratio and "
        "precision are chosen.",
        default=None,
        title="Size",
        rare=True,
        metavar="X",
    )
    max_kl: float | None = option(
        "Target: largest mean KL divergence from the dense model on held-out texts. The smallest variant is chosen.",
        default=None,
        python="Target: largest mean KL divergence from the dense model on held-out texts, in nats per token. The "
        "smallest variant is chosen. The mean decides; a reason or a warning says if it is too close to tell.",
        title="Size",
        metavar="NATS",
    )
    recipe: NameOrPath = option(
        "How heads and neurons are chosen and compensated: a name that `seap-export recipes` lists, or a TOML file.",
        default="reconstruct",
        title="Size",
        rare=True,
        metavar="NAME|FILE",
    )
    layout: Literal["per-layer", "uniform"] = option(
        "Give each layer a shape of its own, or all the same, which some runtimes need.",
        default="per-layer",
        title="Size",
        rare=True,
    )
    vocabulary: int | str = option(
        "Number of tokens to keep; auto: those that the tasks' texts use (docs/vocabulary.md).",
        default="all",
        title="Size",
        rare=True,
        metavar="N|auto|all",
    )
    out: FilePath = option(
        "Folder for the artifacts; a second run continues where the first one stopped.", title="Output"
    )
    format: Several[str] = option(
        f"Format to write beside the model folder hf/: {either(WRITTEN)} (docs/runtimes.md). Repeatable; with a "
        "target, one is chosen for each variant.",
        default=OWN_FORMAT,
        python='What to write beside the model folder, such as "onnx", "gguf:q4_0" or "hf" for nothing; one or '
        "several. With a target, one is chosen for each variant.",
        title="Output",
        metavar="NAME[:PRECISION]",
    )
    router: bool = option("Make a router if there are several tasks.", default=True, unset="true")
    threshold: ShareOrNone = option("Confidence that the router needs to choose a task.", default=None, unset="0.7")
    quality: bool | None = option(
        "Compare each variant with the dense model.",
        default=None,
        unset="quality",
        python="Compare each variant with the dense model; None: if a format is written beside `hf`.",
        title="Checks",
        rare=True,
    )
    speed: bool | None = option(
        "Time each variant beside the dense model.",
        default=None,
        unset="speed",
        python="Time each variant beside the dense model; None: if a format is written beside `hf`.",
        title="Checks",
        rare=True,
    )
    dry_run: bool = option(
        "Check the inputs, estimate sizes and times, and write nothing.",
        default=False,
        title="Checks",
        of_a_run=True,
    )


@options
class ExportOptions(
    RunOptions,
    ComparisonOptions,
    VariantOptions,
    FormOptions,
    BatchOptions,
    CalibrationSettings,
    MainOptions,
):
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
    from seap_export.api.settings import cluster_of, export_request
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.budget.run import export_within
    from seap_export.pipeline.cost.checks import recorded_model
    from seap_export.pipeline.export import export as make_variants
    from seap_export.pipeline.preview import preview

    compute, cluster = cluster_of(options)
    request, progress = export_request(options), options.progress
    if request.measured is None and (options.quality is not False or options.speed is not False):
        progress.say(
            "quality and speed are not measured on hf alone: they need a further format, such as --format "
            f"{OWN_FORMAT}"
        )
    source = open_source(recorded_model(options.model, options.out))
    warn_of_memory(progress, source, compute)
    if request.targets is not None and cluster is not None:
        raise UsageError("--cluster makes variants of given ratios only; leave it out, or give --ratio")
    if options.dry_run:
        planned = preview(source, request, options.out, force=options.force, progress=progress)
        return ExportResult(options.out, planned=planned)
    inputs, force = (source, request, options.out), options.force
    frontier: Mapping[str, Any] | None = None
    if request.targets is None:
        exported = make_variants(*inputs, force=force, compute=compute, cluster=cluster, progress=progress)
    else:
        within = export_within(*inputs, force=force, compute=compute, progress=progress)
        exported, frontier = within.exported, within.frontier
    described = exported.report.variants
    variants = {name: Variant.described(options.out / name, described[name]) for name in exported.variants}
    return ExportResult(options.out, variants, exported.report, exported.steps, exported.variants, frontier)
