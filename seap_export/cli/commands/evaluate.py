"""`seap-export evaluate`: how much of the dense model's quality a variant keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.evaluate import EvaluateOptions, evaluate
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import option_of, options_of, output_options, wide_option
from seap_export.cli.window import Table, prose
from seap_export.pipeline.request.options import ComputeOptions

if TYPE_CHECKING:
    from seap_export.pipeline.evaluation.material import Texts
    from seap_export.pipeline.evaluation.report import EvaluationReport
    from validation.divergence.measure import DivergenceFigures


@click.command("evaluate", cls=GroupedCommand)
@click.argument("path")
@titled(
    "Measurements",
    *options_of(
        EvaluateOptions,
        "dense",
        "runtime",
        "text",
        "zero_shot",
        "harness_task",
        "generate",
        "max_new_tokens",
        "limit",
        "max_length",
    ),
)
@titled("Quality gate", *options_of(EvaluateOptions, "max_kl", "min_accuracy_retained"))
@titled("Output", *options_of(EvaluateOptions, "out", "answers", "dry_run", "force"))
@titled(
    "Machine",
    option_of(EvaluateOptions, "batch_size"),
    *options_of(ComputeOptions),
    option_of(EvaluateOptions, "provider"),
    wide_option,
    output_options,
)
def evaluate_command(console: Console, path: str, **options: Any) -> None:
    """Measure how much of the dense model's quality the variant at PATH keeps.

    What is shipped is measured, the ONNX file, unless --runtime says otherwise. The divergence on held-out texts needs
    --dense. Zero-shot accuracy needs task files or the names of harness tasks, and exact match of generated answers
    needs task files that say how an answer is found; for both, PATH can also be a dense model. Texts that the variant
    was calibrated on are refused. The exit code is 4 if a quality gate fails.

    \b
    Examples:
      seap-export evaluate pruned/piqa-0.2 --dense ./SmolLM2-135M
      seap-export evaluate pruned/piqa-0.2 --dense ./SmolLM2-135M --zero-shot piqa=piqa.toml --limit 500
      seap-export evaluate pruned/gsm8k-0.2 --dense ./SmolLM2-135M --generate gsm8k=gsm8k_test.toml --limit 200
    """
    from seap_export.cli.errors import Failure
    from seap_export.errors import QualityFailure

    report = evaluate(path, **options, progress=console)
    if report.planned:
        console.result({"planned": report.planned}, _preview_table(report.planned))
        return
    if not report.passed:
        console.text(_summary(report))
        raise Failure(f"{path}: {'; '.join(report.reasons)}", QualityFailure.exit_code, report.to_json())
    console.result(report.to_json(), _summary(report))


def _summary(report: EvaluationReport) -> str:
    from validation.reports.variant_section import quality_tables

    plan = report.subject.plan
    what = "dense model" if plan is None else f"task {plan.task}, ratio {plan.achieved_ratio:.4f}"
    divergence, *accuracies = [Table.of(table, first=4) for table in quality_tables(report.to_json())]
    below = [] if report.texts is None else [divergence.text, *map(prose, _divergence(report, report.texts))]
    return "\n".join([f"{report.subject.name}: {what}", *below, *(table.text for table in accuracies if table.rows)])


def _divergence(report: EvaluationReport, texts: Texts) -> Iterator[str]:
    """Lines that explain the figures of a divergence, and some that the table has no room for."""
    from validation.reports.document import in_ascii
    from validation.reports.numbers import signed_with_error

    kind = "held-out texts" if texts.origin == "held-out" else "texts"
    yield f"KL in nats per token, +- its standard error over {len(texts.texts)} {kind}"
    first = next(iter(report.divergence))
    for form, more in report.kl_difference.items():
        difference = in_ascii(signed_with_error(more.mean, more.stderr))
        yield f"{form} - {first}, paired on the same texts: KL {difference}"
    for form, figures in report.divergence.items():
        yield from _per_byte(form, figures)


def _per_byte(form: str, figures: DivergenceFigures) -> Iterator[str]:
    """Lines with figures per byte, which compare across vocabularies, and the cost of a reduced vocabulary."""
    if (per_byte := figures.per_byte) is not None:
        yield (
            f"{form}: {per_byte.bits:.3f} bits per byte, dense {per_byte.dense_bits:.3f}; "
            f"KL {per_byte.kl:.4f} nats per byte, on {per_byte.bytes:,} bytes"
        )
    if (cut := figures.cut) is not None:
        yield (
            f"{form}: {cut.tokens:,} tokens kept; the dense model gives {cut.lost_mass:.2%} to others "
            f"(KL {cut.lost_kl_nats:.4f}, over the kept ones {cut.kept_kl_nats:.4f}); "
            f"{cut.split_bytes:.2%} of the bytes are cut smaller, {cut.more_tokens:.2%} more tokens"
        )


def _preview_table(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [
            f"{row['measurement']} {row['name']}",
            "all there are" if row["items"] is None else str(row["items"]),
            "not calibrated on" if row["disjoint"] else "not checked",
            ", ".join(row["models"]),
        ]
        for row in rows
    ]
    return Table(["measurement", "texts or questions", "disjoint", "models"], cells).text
