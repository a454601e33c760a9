"""`validate`: checks whether variants may be shipped."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seap_export.api.arguments import FilePath, NameOrPath, Provider, Several, checked
from seap_export.api.progress import ProgressArgument
from seap_export.api.results import ValidationResult
from seap_export.api.variant import Variant
from seap_export.common.json_file import json_text
from seap_export.common.providers import OWN_RUNTIME

if TYPE_CHECKING:
    from seap_export.pipeline.gate.report import ValidationReport
    from seap_export.pipeline.gate.request import ValidationRequest
    from seap_export.pipeline.progress import Progress


def validate(
    path: FilePath,
    *,
    check: Several[Literal["integrity", "parity", "router", "quality", "speed"]] = (),
    dense: NameOrPath | None = None,
    prompt_file: FilePath | None = None,
    bisect: bool = False,
    signed_by: FilePath | None = None,
    save_golden: FilePath | None = None,
    runtime: Several[str] = (),
    limits: FilePath | None = None,
    decode_steps: int = 16,
    prompts: int = 4,
    long_tokens: int = 2048,
    max_kl: float | None = None,
    min_decode_speedup: float | None = None,
    min_prefill_speedup: float | None = None,
    max_bytes_ratio: float | None = None,
    depth: Several[int] = 128,
    runs: int = 7,
    out: FilePath | None = None,
    junit: FilePath | None = None,
    html: FilePath | None = None,
    device: str = "auto",
    memory: str | None = None,
    provider: Provider = "cpu",
    threads: int | None = None,
    force: bool = False,
    progress: ProgressArgument = False,
) -> ValidationResult:
    """Checks all variants of an export, or one variant.

    If a check fails, nothing is raised: `passed` of the result is False, and `failure` says why.

    Example:
        >>> from seap_export import validate
        >>> result = validate("pruned", html="validation.html")
        >>> assert result.passed, result.failure
        >>> [(check.variant, check.check, check.verdict) for check in result.checks]

    Args:
        path: The output folder of an export, or a variant's folder in it.
        check: Run only these checks: "integrity", "parity", "router", "quality" or "speed"; none: all that apply.
        dense: The dense model, which the limits of quality and speed need: a folder, a .gguf file or a hub id.
        prompt_file: A corpus of prompts for parity; None: the held-out texts of the export.
        bisect: After a failed parity, find the sublayer that diverges first.
        signed_by: The public key, as PEM, with which every variant must be signed.
        save_golden: Save what a passing variant computes to this file, for `--against-golden` of the command.
        runtime: Compare and judge what these runtimes run, such as "onnxruntime"; none: of each format the first.
        limits: A TOML file of limits for parity; None: the defaults.
        decode_steps: For parity: tokens decoded with the cache.
        prompts: For parity: prompts compared.
        long_tokens: For parity: tokens in the longest prompt.
        max_kl: Largest mean KL divergence from the dense model, in nats per token. The mean decides; a reason
            or a warning says if it is too close to tell.
        min_decode_speedup: Smallest speed-up of a decode step over the dense model.
        min_prefill_speedup: Smallest speed-up of the time to the first token.
        max_bytes_ratio: Largest size on disk, as a fraction of the dense model's.
        depth: Tokens in a timed prompt; one or several.
        runs: Timed runs of each model.
        out: Write the report to this file as JSON.
        junit: Write it to this file as JUnit XML.
        html: Write it to this file as an HTML page.
        device: Where torch computes: "auto", "cpu", "cuda" or "cuda:N".
        memory: Memory that it may take, such as "8GiB"; None: most of what is free.
        provider: Execution provider of ONNX Runtime: "cpu" or "cuda".
        threads: Number of threads; None: all cores.
        force: Replace files.
        progress: Print on stderr what happens, as the command does. Otherwise warnings are those of `warnings`.

    Returns:
        The checks with their verdicts, and the variants with their figures.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: There is nothing to check at the path, or arguments contradict each other.
        ArtifactError: The manifest of an output folder is missing or damaged.
        InputError: The dense model or a corpus cannot be used.
        EnvironmentFailure: The provider, a runtime, memory or disk space is missing.
    """
    options = checked(validate, locals())

    from seap_export.pipeline.folder.outputs import write_report
    from seap_export.pipeline.gate.golden import refuse_golden
    from seap_export.pipeline.gate.validate import validate as run_checks

    folder, golden, said = options.pop("path"), options.pop("save_golden"), options.pop("progress")
    targets = {name: options.pop(name) for name in ("out", "junit", "html")}
    del options["force"]
    request = _request(options)
    if golden is not None:
        refuse_golden(folder, golden, force=force)
    with ExitStack() as stack:
        temporaries = {
            name: stack.enter_context(write_report(target, force=force))
            for name, target in targets.items()
            if target is not None
        }
        report = run_checks(folder, request, said)
        _write(report, temporaries)
    if report.passed and golden is not None:
        _save_golden(folder, golden, request, said, force=force)
    return ValidationResult(folder, _variants(folder, report), report)


def _request(options: dict[str, Any]) -> ValidationRequest:
    from seap_export.api.settings import compute_of, parity_settings
    from seap_export.pipeline.evaluation.bench_request import BenchRequest
    from seap_export.pipeline.evaluation.request import EvaluationRequest
    from seap_export.pipeline.gate.request import ValidationRequest
    from validation.runtimes.table import runtime_row
    from validation.speed.gate import SpeedLimits

    compute, parity = compute_of(options), parity_settings(options)
    names = ("min_decode_speedup", "min_prefill_speedup", "max_bytes_ratio")
    speed = {name: options.pop(name) for name in names}
    depths, runs, max_kl = options.pop("depth"), options.pop("runs"), options.pop("max_kl")
    checks, runtimes = options.pop("check"), options.pop("runtime")
    for name in runtimes:
        runtime_row(name)
    return ValidationRequest(
        **({"checks": checks} if checks else {}),
        parity=parity,
        compute=compute,
        runtimes=runtimes,
        quality=None
        if max_kl is None
        else EvaluationRequest((OWN_RUNTIME,), threads=parity.threads, provider=parity.provider, max_kl=max_kl),
        speed=SpeedLimits(**speed) if any(limit is not None for limit in speed.values()) else None,
        bench=BenchRequest(depths, (1,), (OWN_RUNTIME,), provider=parity.provider, threads=parity.threads, runs=runs),
        **options,
    )


def _write(report: ValidationReport, paths: dict[str, Path]) -> None:
    from validation.reports import html_page, junit_xml

    values = report.to_json()
    texts = {"out": lambda: json_text(values), "junit": lambda: junit_xml(values), "html": lambda: html_page(values)}
    for name, path in paths.items():
        path.write_text(texts[name](), "utf-8", newline="\n")


def _save_golden(path: Path, target: Path, request: ValidationRequest, progress: Progress, *, force: bool) -> None:
    from seap_export.pipeline.folder.contents import Variant as Contents
    from seap_export.pipeline.folder.outputs import write_report
    from seap_export.pipeline.gate.golden import save_golden

    with write_report(target, force=force) as temporary:
        save_golden(Contents(path), temporary, request.parity, request.prompt_file, progress)
    progress.say(f"golden written to {target}")


def _variants(path: Path, report: ValidationReport) -> dict[str, Variant]:
    """The variants of an output folder by name, or the one that lies at the path."""
    from seap_export.pipeline.folder.contents import Export

    folders = {name: path / name if Export(path).exists else path for name in report.variants}
    return {name: Variant.described(folder, report.variants[name]) for name, folder in folders.items()}
