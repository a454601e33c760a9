"""`seap-export validate`: checks whether variants may be shipped."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.validate import ValidateOptions, validate
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, option, rare, titled
from seap_export.cli.options import option_of, options_of, output_options, wide_option
from seap_export.cli.values import ExistingPath, PathType
from seap_export.cli.window import Table
from seap_export.common.providers import OWN_FORMAT
from seap_export.pipeline.request.options import ComparisonOptions, ComputeOptions

if TYPE_CHECKING:
    from seap_export.pipeline.gate.report import ValidationReport

#: What applies to the comparison with a golden, which only our own runtime runs.
_OF_GOLDENS = frozenset({"path", "against_golden", "provider", "threads", "as_json", "quiet", "wide"})


@click.command("validate", cls=GroupedCommand)
@click.argument("path", type=ExistingPath())
@titled(
    "Checks",
    *options_of(ValidateOptions, "check", "dense", "prompt_file", "bisect", "signed_by", "save_golden"),
    option(
        "--against-golden",
        type=PathType(),
        help=f"Compare a variant, or its {OWN_FORMAT} folder, with such a file; torch is not needed.",
    ),
)
@titled("Parity", option_of(ValidateOptions, "runtime"), *rare(*options_of(ComparisonOptions)))
@titled(
    "Quality and speed gates",
    *options_of(
        ValidateOptions,
        "max_kl",
        "min_accuracy_retained",
        "min_decode_speedup",
        "min_prefill_speedup",
        "max_bytes_ratio",
        "depth",
        "runs",
    ),
)
@titled("Output", *options_of(ValidateOptions, "out", "junit", "html", "force"))
@titled("Machine", *options_of(ComputeOptions), option_of(ValidateOptions, "provider"), wide_option, output_options)
def validate_command(console: Console, path: Path, against_golden: Path | None, **options: Any) -> None:
    """Check whether an export or a variant may be shipped.

    PATH is an output folder of `export` or a variant in it. The exit code says which check failed.

    \b
    integrity  every file exists, has its hash and agrees with the others
    parity     every written format gives the same logits in its runtime as the model in hf/ in torch
    router     its files fit the variants, and it answers as recorded
    quality    the divergence of every written format from --dense is within --max-kl, and where a task has
               answers, the accuracy that the export measured is at least --min-accuracy-retained
    speed      the speed and the size, compared with --dense, are within their limits

    \b
    Exit codes: 3 parity failed, 4 quality failed, 5 speed failed, 7 files are damaged,
    6 something is missing in the environment, or a check could not judge: the machine is too noisy, or there are
    too few tokens.

    \b
    Examples:
      seap-export validate pruned --out validation.json --junit validation.xml --html validation.html
      seap-export validate pruned/gsm8k-0.2 --check parity --bisect
      seap-export validate pruned --dense ./SmolLM2-135M --max-kl 0.2 --min-decode-speedup 1.1
      seap-export validate pruned/gsm8k-0.2 --save-golden gsm8k.golden.npz
      seap-export validate pruned/gsm8k-0.2/onnx --against-golden gsm8k.golden.npz
    """
    if against_golden is not None:
        _against_golden(console, path, against_golden, options)
        return
    report = validate(path, **options, progress=console).report
    _job_summary(console, report)
    _show(console, path, report)


def _job_summary(console: Console, report: ValidationReport) -> None:
    """Writes the report to the job summary of GitHub Actions if there is one; this never changes the verdict."""
    from validation.reports import job_summary

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(job_summary(report.to_json()) + "\n")
    except OSError as error:
        console.warn(f"GITHUB_STEP_SUMMARY: {path} cannot be written ({error.strerror}), so the job has no summary")


def _show(console: Console, path: Path, report: ValidationReport) -> None:
    from seap_export.cli.errors import Failure
    from seap_export.cli.exported import recommended_lines, remedies
    from seap_export.cli.files import files_table

    rows = [
        [
            check.variant or report.name,
            check.check if check.subject is None else f"{check.check} of {check.subject}",
            check.verdict,
            textwrap.shorten("; ".join(check.reasons or check.notes), 80, placeholder=" ..."),
        ]
        for check in report.checks
    ]
    commands = {name: row["command"] for name, row in report.whole.items()}
    where = remedies(report.whole, commands, path, " (put your own paths in place of the file names)")
    shipped = "\n".join(recommended_lines(report.recommended, where))
    checks = Table(["variant", "check", "verdict", ""], rows).text
    is_measured = any(of["quality"] or of["speed"] for of in report.variants.values())
    parts = [checks, files_table(report, report.variants).text if is_measured else "", shipped]
    text = "\n\n".join([*filter(None, parts), report.verdict if report.verdict != "failed" else "FAILED"])
    if report.passed:
        console.result(report.to_json(), text)
        return
    console.text(text)
    raise Failure(report.failure, report.exit_code, report.to_json())


def _against_golden(console: Console, path: Path, golden: Path, options: dict[str, Any]) -> None:
    from seap_export.cli.errors import Failure
    from seap_export.errors import ParityFailure, UsageError
    from seap_export.runtime.golden import compare_with_golden

    context = click.get_current_context()
    given = [
        param.opts[0]
        for param in context.command.params
        if param.name not in _OF_GOLDENS
        and context.get_parameter_source(str(param.name)) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(f"--against-golden is a check of its own; leave out {', '.join(given)}")
    comparison = compare_with_golden(path, golden, options["provider"], options["threads"])
    if comparison.reasons:
        console.text(comparison.summary)
        message = f"{path}: {'; '.join(comparison.reasons[:3])}"
        raise Failure(message, ParityFailure.exit_code, comparison.to_json())
    console.result(comparison.to_json(), comparison.summary)
