"""`seap-export validate`: may this be shipped?"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from seap_export.cli.console import Console, table
from seap_export.cli.options import PathType, force_option, output_options, parity_options

if TYPE_CHECKING:
    from seap_export.pipeline.validate import ValidationRequest
    from seap_export.pipeline.validation_report import ValidationReport

__all__ = ["validate_command"]

_CHECKS = ("integrity", "parity", "router", "quality", "speed")


@click.command("validate")
@click.argument("path", type=PathType())
@click.option("--check", "checks", multiple=True, type=click.Choice(_CHECKS), help="Only this check. Repeatable.")
@click.option(
    "--prompt-file",
    type=PathType(),
    help="A corpus of prompts (JSONL, Parquet, text; no task file).  [default: the held-out texts of the export]",
)
@click.option("--bisect", is_flag=True, help="Follow a failed parity to the sublayer that diverges first.")
@click.option(
    "--provider", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Execution provider."
)
@parity_options
@click.option("--dense", metavar="MODEL", help="The dense model, for the limits of quality and speed.")
@click.option("--max-kl", type=float, help="Quality: largest mean KL divergence from the dense model, nats a token.")
@click.option("--min-decode-speedup", type=float, help="Speed: least speed-up of a decode step over the dense model.")
@click.option("--min-prefill-speedup", type=float, help="Speed: least speed-up of the time to the first token.")
@click.option("--max-bytes-ratio", type=float, help="Speed: largest share of the dense model's bytes on disk.")
@click.option(
    "--depth", "depths", multiple=True, type=int, help="Speed: tokens of a prompt. Repeatable. [default: 128]"
)
@click.option("--runs", type=int, default=7, show_default=True, help="Speed: runs of each model, in turn.")
@click.option("--save-golden", type=PathType(), help="Write what a passing variant computes, for --against-golden.")
@click.option(
    "--against-golden", type=PathType(), help="Compare a variant, or its onnx folder, with that; torch is not needed."
)
@click.option("--out", type=PathType(), help="Write the report there as JSON.")
@click.option("--junit", type=PathType(), help="Write it there as JUnit XML.")
@click.option("--html", type=PathType(), help="Write it there as a page.")
@force_option
@output_options
def validate_command(console: Console, path: Path, force: bool, **options: Any) -> None:
    """Check all variants of an export at PATH, or one variant; the exit code says what failed.

    Integrity: every file is there, has its hash, and agrees with the others. Parity: ONNX against hf in torch.
    Router: it leads to the variants. Quality and speed: against --dense, where a limit is given.

    \b
    Exit codes: 3 parity, 4 quality, 5 speed, 6 environment or too noisy, 7 damaged.

    \b
    Examples:
      seap-export validate pruned --out validation.json --junit validation.xml --html validation.html
      seap-export validate pruned/gsm8k-0.2 --check parity --bisect
      seap-export validate pruned --dense ./SmolLM2-135M --max-kl 0.2 --min-decode-speedup 1.1
      seap-export validate pruned/gsm8k-0.2 --save-golden gsm8k.golden.npz
      seap-export validate pruned/gsm8k-0.2/onnx --against-golden gsm8k.golden.npz
    """
    golden = options.pop("against_golden")
    if golden is not None:
        _against_golden(console, path, golden, options)
        return
    from seap_export.pipeline.golden import refuse_golden
    from seap_export.pipeline.outputs import write_whole
    from seap_export.pipeline.validate import validate

    saved, targets = options.pop("save_golden"), {name: options.pop(name) for name in ("out", "junit", "html")}
    request = _request(options)
    if saved is not None:
        refuse_golden(path, saved, force=force)
    with ExitStack() as stack:
        places = {
            name: stack.enter_context(write_whole(target, force=force))
            for name, target in targets.items()
            if target is not None
        }
        report = validate(path, request, console)
        _write(report, places)
        _job_summary(report)
    if report.passed and saved is not None:
        _save_golden(console, path, saved, request, force)
    _tell(console, report)


def _request(options: dict[str, Any]) -> ValidationRequest:
    from seap_export.cli.settings import parity_settings
    from seap_export.pipeline.bench import BenchRequest
    from seap_export.pipeline.evaluation_request import EvaluationRequest
    from seap_export.pipeline.validate import ValidationRequest
    from validation.speed.gate import SpeedLimits

    parity = parity_settings(options)
    names = ("min_decode_speedup", "min_prefill_speedup", "max_bytes_ratio")
    speed = {name: options.pop(name) for name in names}
    depths, runs, max_kl = options.pop("depths") or (128,), options.pop("runs"), options.pop("max_kl")
    checks = options.pop("checks")
    return ValidationRequest(
        **({"checks": checks} if checks else {}),
        parity=parity,
        quality=None if max_kl is None else EvaluationRequest(("onnx",), threads=parity.threads, max_kl=max_kl),
        speed=SpeedLimits(**speed) if any(limit is not None for limit in speed.values()) else None,
        bench=BenchRequest(
            depths, (1,), ("onnxruntime",), provider=parity.provider, threads=parity.threads, runs=runs
        ),
        **options,
    )


def _write(report: ValidationReport, places: dict[str, Path]) -> None:
    import json

    from validation.reports import html_page, junit_xml

    values = report.to_json()
    texts = {
        "out": lambda: json.dumps(values, indent=1, ensure_ascii=False) + "\n",
        "junit": lambda: junit_xml(values),
        "html": lambda: html_page(values),
    }
    for name, place in places.items():
        place.write_text(texts[name](), "utf-8", newline="\n")


def _job_summary(report: ValidationReport) -> None:
    """Where GitHub Actions says that a job's summary goes."""
    from validation.reports import job_summary

    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if place:
        with open(place, "a", encoding="utf-8", newline="\n") as file:
            file.write(job_summary(report.to_json()) + "\n")


def _tell(console: Console, report: ValidationReport) -> None:
    from seap_export.cli.errors import Failure

    rows = [
        [check.variant or report.name, check.check, check.verdict, "; ".join(check.reasons or check.notes)[:80]]
        for check in report.checks
    ]
    text = f"{table(['variant', 'check', 'verdict', ''], rows)}\n{'passed' if report.passed else 'FAILED'}"
    if report.passed:
        console.result(report.to_json(), text)
        return
    console.text(text)
    raise Failure(report.failure, report.exit_code)


def _save_golden(console: Console, path: Path, target: Path, request: ValidationRequest, force: bool) -> None:
    from seap_export.pipeline.golden import save_golden
    from seap_export.pipeline.outputs import write_whole

    with write_whole(target, force=force) as place:
        save_golden(path, place, request.parity, request.prompt_file, console)
    console.say(f"golden written to {target}")


def _against_golden(console: Console, path: Path, golden: Path, options: dict[str, Any]) -> None:
    from seap_export.errors import ParityFailure
    from seap_export.runtime.golden import compare_with_golden

    found = compare_with_golden(path, golden, options["provider"], options["threads"])
    if found.reasons:
        console.text(found.summary)
        raise ParityFailure(f"{path}: {'; '.join(found.reasons[:3])}")
    console.result(found.to_json(), found.summary)
