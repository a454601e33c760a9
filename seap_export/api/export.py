"""`export`: the main job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seap_export.api.arguments import FilePath, Mixes, NameOrPath, Provider, Several, Weights, checked
from seap_export.api.progress import ProgressArgument
from seap_export.api.results import ExportResult
from seap_export.api.tasks import Tasks
from seap_export.api.variant import Variant
from seap_export.common.providers import OWN_FORMAT
from seap_export.errors import UsageError

if TYPE_CHECKING:
    from seap_export.model.layers.compute import Compute
    from seap_export.model.sources.source import Source
    from seap_export.pipeline.cluster.connection import Cluster
    from seap_export.pipeline.progress import Progress
    from seap_export.pipeline.request.export_request import ExportRequest


def export(
    model: NameOrPath,
    tasks: Tasks,
    *,
    out: FilePath,
    ratio: Several[float] = (),
    target_size: str | None = None,
    target_decode_speedup: float | None = None,
    max_kl: float | None = None,
    general: bool = False,
    weight: Weights = (),
    mix: Mixes = (),
    support: str | None = None,
    answers: Literal["data", "model"] = "data",
    answer_tokens: int = 256,
    recipe: NameOrPath = "reconstruct",
    layout: Literal["per-layer", "uniform"] = "per-layer",
    vocabulary: int | str = "all",
    format: Several[str] = OWN_FORMAT,
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"] | None = None,
    logits: Literal["all", "last"] | None = None,
    activations: Literal["fp32", "fp16", "bf16"] | None = None,
    block_size: Literal[32, 64, 128] | None = None,
    asymmetric: bool = False,
    float_embeddings: bool = False,
    dialect: Literal["fused", "standard"] | None = None,
    rounding: Literal["calibrated", "nearest"] = "calibrated",
    router: bool = True,
    threshold: float | None = None,
    quality: bool | None = None,
    general_text: FilePath | None = None,
    speed: bool | None = None,
    samples: int | None = None,
    calibration_tokens: int | None = None,
    held_out: int | None = None,
    seed: int = 0,
    max_length: int = 512,
    limits: FilePath | None = None,
    decode_steps: int = 16,
    prompts: int = 4,
    long_tokens: int = 2048,
    batch_tokens: int = 1024,
    device: str = "auto",
    memory: str | None = None,
    provider: Provider = "cpu",
    threads: int | None = None,
    cluster: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: ProgressArgument = False,
) -> ExportResult:
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
        model: A Hugging Face folder, a .gguf file or a hub id.
        tasks: By name, the texts of each task: a list of texts, a list of records (mappings from fields to values), a
            `datasets.Dataset`, or a file, a data set of the hub or a task of lm-eval. Or sources as --task accepts
            them, such as "gsm8k" or "maths=maths.jsonl".
        out: Folder for the artifacts.
        ratio: Fraction of all attention and MLP weights to remove; one or several. The next three replace it.
        target_size: Most bytes of the written folder, such as "60MB".
        target_decode_speedup: Least speed-up of a decode step over the dense model.
        max_kl: Largest mean KL divergence from the dense model, in nats per token. The mean decides; a reason
            or a warning says if it is too close to tell.
        general: Also make a variant for all tasks together.
        weight: The weights of tasks in it, such as {"maths": 2}; 1 by default.
        mix: Further variants for some of the tasks, such as {"both": {"maths": 2, "wiki": 1}}.
        support: General text that every variant is made from as well, as SOURCE or SOURCE:SHARE.
        answers: Make the variants from the answers of the data, or let the model answer the prompts itself.
        answer_tokens: The most tokens of an answer of the model itself.
        recipe: How heads and neurons are chosen and compensated: a name or a TOML file.
        layout: "per-layer": each layer has its own shape. "uniform": all have the same.
        vocabulary: Number of tokens to keep, "auto" or "all".
        format: What to write beside the model folder, such as "onnx", "gguf:q4_0" or "hf" for nothing; one or several.
        precision: Precision of the ONNX weights; None: int8 on the CPU, fp16 on CUDA.
        logits: Logits of all positions, or of each prompt's last token; None: the last.
        activations: For int8 and int4: dtype of activations and caches; None: the first that the provider computes in.
        block_size: For int8 and int4: number of weights that share a scale; None: 32.
        asymmetric: For int8 and int4: store a zero point for each block.
        float_embeddings: For int8 and int4: do not quantise the embedding and the LM head.
        dialect: "fused": ONNX Runtime's operators. "standard": those of the ONNX standard. None: fused.
        rounding: How 4-bit weights are rounded: with the calibration texts, or each to the nearest level.
        router: Make a router if there are several tasks.
        threshold: Confidence that the router needs to choose a task; None: 0.7.
        quality: Compare each variant with the dense model; None: if a format is written beside `hf`.
        general_text: A corpus that shows what variants lost elsewhere; None: the one of the package.
        speed: Time each variant beside the dense model; None: if a format is written beside `hf`.
        samples: Calibration texts of each task; None: as many as the tokens allow.
        calibration_tokens: Tokens to calibrate on for each task at most; None: as the recipe says, or all
            if `samples` is given.
        held_out: Texts of each task that are set aside for the checks; None: 16, or a quarter of fewer than 64.
        seed: Seed of the split into calibration and held-out texts.
        max_length: Tokens after which a text is cut.
        limits: A TOML file of limits for parity; None: the defaults.
        decode_steps: For parity: tokens decoded with the cache.
        prompts: For parity: held-out prompts compared.
        long_tokens: For parity: tokens in the longest prompt.
        batch_tokens: Tokens in a batch; it changes the speed and the memory only.
        device: Where torch computes: "auto", "cpu", "cuda" or "cuda:N".
        memory: Memory that hidden states and weights may take, such as "8GiB"; None: most of what is free.
        provider: Execution provider that the variants are made for: "cpu" or "cuda".
        threads: Number of threads; None: all cores.
        cluster: Make the steps on a Ray cluster: "local" or "ray://HOST:PORT".
        dry_run: Check the inputs, estimate sizes and times, and write nothing.
        force: Replace files that were made from other inputs.
        progress: Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.

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
    options = checked(export, locals())
    run = _preview if options.pop("dry_run") else _export
    return run(_open(options))


@dataclass(frozen=True)
class _Job:
    source: Source
    request: ExportRequest
    out: Path
    force: bool
    compute: Compute
    cluster: Cluster | None
    progress: Progress


def _open(options: dict[str, Any]) -> _Job:
    """The arguments as a request, and the model opened."""
    from seap_export.api.memory import warn_of_memory
    from seap_export.api.settings import cluster_of, export_request
    from seap_export.model.sources.open import open_source
    from seap_export.pipeline.cost.checks import recorded_model

    model, out, force, progress = (options.pop(name) for name in ("model", "out", "force", "progress"))
    compute, cluster = cluster_of(options.pop("cluster"), model, options)
    is_measured = options["quality"] is not False or options["speed"] is not False
    request = export_request(options)
    if is_measured and request.measured is None:
        progress.say(
            "quality and speed are not measured on hf alone: they need a further format, such as --format "
            f"{OWN_FORMAT}"
        )
    source = open_source(recorded_model(model, out))
    warn_of_memory(progress, source, compute)
    if request.targets is not None and cluster is not None:
        raise UsageError("--cluster makes variants of given ratios only; leave it out, or give --ratio")
    return _Job(source, request, out, force, compute, cluster, progress)


def _preview(job: _Job) -> ExportResult:
    from seap_export.pipeline.preview import preview

    planned = preview(job.source, job.request, job.out, force=job.force, progress=job.progress)
    return ExportResult(job.out, planned=planned)


def _export(job: _Job) -> ExportResult:
    from seap_export.pipeline.budget.run import export_within
    from seap_export.pipeline.export import export as make_variants

    frontier: Mapping[str, Any] | None = None
    inputs = (job.source, job.request, job.out)
    if job.request.targets is None:
        exported = make_variants(
            *inputs, force=job.force, compute=job.compute, cluster=job.cluster, progress=job.progress
        )
    else:
        within = export_within(*inputs, force=job.force, compute=job.compute, progress=job.progress)
        exported, frontier = within.exported, within.frontier
    described = exported.report.variants
    variants = {name: Variant.described(job.out / name, described[name]) for name in exported.variants}
    return ExportResult(job.out, variants, exported.report, exported.steps, exported.variants, frontier)
