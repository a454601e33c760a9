"""`seap-export validate`: checks whether variants may be shipped."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.arguments import defaults_of
from seap_export.api.validate import validate
from seap_export.cli.console import Console, table
from seap_export.cli.groups import GroupedCommand, number_option, option, rare, titled
from seap_export.cli.options import (
    compute_options,
    force_option,
    max_kl_option,
    output_options,
    parity_options,
    provider_option,
)
from seap_export.cli.values import ExistingPath, PathType
from seap_export.common.providers import OWN_FORMAT, OWN_RUNTIME

if TYPE_CHECKING:
    from seap_export.pipeline.gate.report import ValidationReport

_DEFAULTS = defaults_of(validate)
#: What applies to the comparison with a golden, which only our own runtime runs.
_OF_GOLDENS = frozenset({"path", "against_golden", "provider", "threads", "as_json", "quiet"})
_CHECKS = ("integrity", "parity", "router", "quality", "speed")


@click.command("validate", cls=GroupedCommand)
@click.argument("path", type=ExistingPath())
@titled(
    "Checks",
    option("--check", multiple=True, type=click.Choice(_CHECKS), help="Run only this check. Repeatable."),
    option("--dense", metavar="MODEL", help="The dense model, which the quality and the speed gate need."),
    option(
        "--prompt-file",
        type=PathType(),
        help="A corpus of prompts: JSONL, Parquet or text.  [default: the held-out texts of the export]",
    ),
    option("--bisect", is_flag=True, help="After a failed parity, find the sublayer that diverges first."),
    option("--signed-by", type=PathType(), help="Public key (PEM) with which every variant must be signed."),
    option("--save-golden", type=PathType(), help="Save the logits of a variant that passes, for --against-golden."),
    option(
        "--against-golden",
        type=PathType(),
        help=f"Compare a variant, or its {OWN_FORMAT} folder, with such a file; torch is not needed.",
    ),
)
@titled(
    "Parity",
    option(
        "--runtime",
        multiple=True,
        metavar="NAME",
        help=f"Runtime to compare and judge, such as {OWN_RUNTIME}. Repeatable.  [default: the first of each format]",
    ),
    *rare(*parity_options),
)
@titled(
    "Quality and speed gates",
    max_kl_option,
    option(
        "--min-decode-speedup",
        type=float,
        metavar="X",
        help="Smallest speed-up of a decode step over the dense model.",
    ),
    option("--min-prefill-speedup", type=float, metavar="X", help="Smallest speed-up of the time to the first token."),
    option(
        "--max-bytes-ratio", type=float, metavar="F", help="Largest size on disk, as a fraction of the dense model's."
    ),
    number_option(
        "--depth",
        "Number of tokens in a timed prompt. Repeatable.",
        multiple=True,
        default=[_DEFAULTS["depth"]],
        show_default=True,
    ),
    number_option("--runs", "Timed runs of each model, in turn.", defaults=_DEFAULTS),
)
@titled(
    "Output",
    option("--out", type=PathType(), help="Write the report to this file as JSON."),
    option("--junit", type=PathType(), help="Write it to this file as JUnit XML."),
    option("--html", type=PathType(), help="Write it to this file as an HTML page."),
    force_option,
)
@titled(
    "Machine",
    *compute_options,
    provider_option("Execution provider of ONNX Runtime that runs the ONNX files."),
    output_options,
)
def validate_command(console: Console, path: Path, against_golden: Path | None, **options: Any) -> None:
    """Check whether an export or a variant may be shipped.

    PATH is an output folder of `export` or a variant in it. The exit code says which check failed.

    \b
    integrity  every file exists, has its hash and agrees with the others
    parity     every written format gives the same logits in its runtime as the model in hf/ in torch
    router     its files fit the variants, and it answers as recorded
    quality    the divergence of every written format from --dense is within --max-kl
    speed      the speed and the size, compared with --dense, are within their limits

    \b
    Exit codes: 3 parity failed, 4 quality failed, 5 speed failed, 7 files are damaged,
    6 something is missing in the environment, or the machine is too noisy to decide about speed.

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
    _show(console, report)


def _job_summary(console: Console, report: ValidationReport) -> None:
    """The file for the job summary, if GitHub Actions names one; the verdict does not depend on it."""
    from validation.reports import job_summary

    path = os.environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(job_summary(report.to_json()) + "\n")
    except OSError as error:
        console.warn(f"GITHUB_STEP_SUMMARY: {path} cannot be written ({error.strerror}), so the job has no summary")


def _show(console: Console, report: ValidationReport) -> None:
    from seap_export.cli.errors import Failure

    rows = [
        [
            check.variant or report.name,
            check.check if check.subject is None else f"{check.check} of {check.subject}",
            check.verdict,
            textwrap.shorten("; ".join(check.reasons or check.notes), 80, placeholder=" ..."),
        ]
        for check in report.checks
    ]
    parts = [table(["variant", "check", "verdict", ""], rows), _measured(report)]
    text = "\n".join([*filter(None, parts), "passed" if report.passed else "FAILED"])
    if report.passed:
        console.result(report.to_json(), text)
        return
    console.text(text)
    raise Failure(report.failure, report.exit_code, report.to_json())


def _measured(report: ValidationReport) -> str:
    """The speed and the quality of the variants of which one was measured, now or by the export."""
    from seap_export.cli.exported import measured_cells, measured_heads

    measured = {name: variant for name, variant in report.variants.items() if variant["speed"] or variant["quality"]}
    rows = [[name, *measured_cells(variant)] for name, variant in measured.items()]
    return f"\n{table(['compared with dense', *measured_heads()], rows)}\n" if rows else ""


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
