"""`validate`: checks whether variants may be shipped."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from seap_export.api.options import RunnerOptions, RunOptions
from seap_export.api.results import ValidationResult
from seap_export.api.variant import Variant
from seap_export.common.json_file import json_text
from seap_export.common.options import option, options, takes
from seap_export.common.providers import OWN_RUNTIME
from seap_export.common.values import FilePath, FilePathOrNone, NameOrPathOrNone, Several
from seap_export.pipeline.request.options import ComparisonOptions, ComputeOptions, DivergenceOptions

if TYPE_CHECKING:
    from seap_export.pipeline.gate.report import ValidationReport
    from seap_export.pipeline.gate.request import ValidationRequest
    from seap_export.pipeline.progress import Progress


@options
class ValidateOptions(RunOptions, ComputeOptions, ComparisonOptions, RunnerOptions, DivergenceOptions):
    """All options of `validate`."""

    path: FilePath = option("The output folder of an export, or a variant's folder in it.", kw_only=False)
    check: Several[Literal["integrity", "parity", "router", "quality", "speed"]] = option(
        "Run only this check. Repeatable.",
        default=(),
        python='Run only these checks: "integrity", "parity", "router", "quality" or "speed"; none: all that apply.',
    )
    dense: NameOrPathOrNone = option(
        "The dense model, which the quality and the speed gate need.", default=None, metavar="MODEL"
    )
    prompt_file: FilePathOrNone = option(
        "A corpus of prompts: JSONL, Parquet or text.", default=None, unset="the held-out texts of the export"
    )
    bisect: bool = option("After a failed parity, find the sublayer that diverges first.", default=False)
    signed_by: FilePathOrNone = option("Public key (PEM) with which every variant must be signed.", default=None)
    save_golden: FilePathOrNone = option(
        "Save the logits of a variant that passes, for --against-golden.",
        default=None,
        python="Save the logits of a variant that passes to this file, for `--against-golden` of the command.",
    )
    runtime: Several[str] = option(
        f"Runtime to compare and judge, such as {OWN_RUNTIME}. Repeatable.",
        default=(),
        unset="the first of each format",
        python=f'Compare and judge what these runtimes run, such as "{OWN_RUNTIME}"; none: of each format the first.',
        metavar="NAME",
    )
    min_accuracy_retained: float | None = option(
        "Smallest accuracy on a task's held-out questions, as the export measured it, as a fraction of the dense "
        "model's.",
        default=None,
        metavar="F",
    )
    min_decode_speedup: float | None = option(
        "Smallest speed-up of a decode step over the dense model.", default=None, metavar="X"
    )
    min_prefill_speedup: float | None = option(
        "Smallest speed-up of the time to the first token.", default=None, metavar="X"
    )
    max_bytes_ratio: float | None = option(
        "Largest size on disk, as a fraction of the dense model's.", default=None, metavar="F"
    )
    depth: Several[int] = option("Number of tokens in a timed prompt. Repeatable.", default=128)
    runs: int = option("Timed runs of each model, in turn.", default=7)
    out: FilePathOrNone = option("Write the report to this file as JSON.", default=None)
    junit: FilePathOrNone = option("Write it to this file as JUnit XML.", default=None)
    html: FilePathOrNone = option("Write it to this file as an HTML page.", default=None)


@takes(ValidateOptions)
def validate(options: ValidateOptions) -> ValidationResult:
    """Checks all variants of an export, or one variant.

    If a check fails, nothing is raised: `passed` of the result is False, and `failure` says why.

    Example:
        >>> from seap_export import validate
        >>> result = validate("pruned", html="validation.html")
        >>> assert result.passed, result.failure
        >>> [(check.variant, check.check, check.verdict) for check in result.checks]

    Args:
        The fields of `ValidateOptions`.

    Returns:
        The checks with their verdicts, and the variants with their figures.

    Raises:
        TypeError: An argument has the wrong type.
        UsageError: There is nothing to check at the path, or arguments contradict each other.
        ArtifactError: The manifest of an output folder is missing or damaged.
        InputError: The dense model or a corpus cannot be used.
        EnvironmentFailure: The provider, a runtime, memory or disk space is missing.
    """
    from seap_export.pipeline.folder.outputs import write_report
    from seap_export.pipeline.gate.golden import refuse_golden
    from seap_export.pipeline.gate.validate import validate as run_checks

    folder, golden, said = options.path, options.save_golden, options.progress
    targets = {"out": options.out, "junit": options.junit, "html": options.html}
    request = _request(options)
    if golden is not None:
        refuse_golden(folder, golden, force=options.force)
    with ExitStack() as stack:
        temporaries = {
            name: stack.enter_context(write_report(target, force=options.force))
            for name, target in targets.items()
            if target is not None
        }
        report = run_checks(folder, request, said)
        _write(report, temporaries)
    if report.passed and golden is not None:
        _save_golden(folder, golden, request, said, force=options.force)
    return ValidationResult(folder, _variants(folder, report), report)


def _request(options: ValidateOptions) -> ValidationRequest:
    from seap_export.api.settings import compute_of
    from seap_export.pipeline.evaluation.bench_request import BenchRequest
    from seap_export.pipeline.evaluation.request import EvaluationRequest
    from seap_export.pipeline.gate.request import ValidationRequest
    from seap_export.pipeline.request.settings import parity_settings
    from validation.runtimes.table import runtime_row
    from validation.speed.gate import SpeedLimits

    compute = compute_of(options)
    provider, threads, max_kl = options.provider, options.threads, options.max_kl
    speed = (options.min_decode_speedup, options.min_prefill_speedup, options.max_bytes_ratio)
    for name in options.runtime:
        runtime_row(name)
    return ValidationRequest(
        **({"checks": options.check} if options.check else {}),
        parity=parity_settings(options, provider, threads),
        compute=compute,
        runtimes=options.runtime,
        quality=None
        if max_kl is None
        else EvaluationRequest((OWN_RUNTIME,), threads=threads, provider=provider, max_kl=max_kl),
        min_accuracy_retained=options.min_accuracy_retained,
        speed=None if speed == (None, None, None) else SpeedLimits(*speed),
        bench=BenchRequest(options.depth, (1,), (OWN_RUNTIME,), provider=provider, threads=threads, runs=options.runs),
        dense=options.dense,
        prompt_file=options.prompt_file,
        bisect=options.bisect,
        signed_by=options.signed_by,
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
