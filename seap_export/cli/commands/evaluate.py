"""`seap-export evaluate`: how much of the dense model's quality a variant keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from seap_export.api.evaluate import EvaluateOptions, evaluate
from seap_export.api.options import ComputeOptions
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, titled
from seap_export.cli.options import option_of, options_of, output_options, wide_option
from seap_export.cli.window import Table, prose

if TYPE_CHECKING:
    from seap_export.pipeline.evaluation.report import EvaluationReport
    from validation.divergence.measure import DivergenceFigures
    from validation.estimate import Estimate

#: What is kept of the dense model's accuracy, the difference from it, and how many answers became wrong and right.
#: The head of the column of Wilson's interval of a share of right answers.
_INTERVAL = "95 in 100"
_BESIDE_DENSE = ("retained", "difference", "lost", "won")


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
    plan = report.subject.plan
    what = "dense model" if plan is None else f"task {plan.task}, ratio {plan.achieved_ratio:.4f}"
    tables = [_divergence_table(report), _zero_shot_table(report), _generation_table(report)]
    return "\n".join([f"{report.subject.name}: {what}", *(text for text in tables if text)])


def _divergence_table(report: EvaluationReport) -> str:
    if report.texts is None:
        return ""
    from validation.reports.document import Cell
    from validation.reports.figures import QUALITY
    from validation.reports.numbers import signed_with_error

    divergence = report.to_json()["divergence"]
    rows = [
        [form, *(figure.cell({"quality": figures}).line for figure in QUALITY)] for form, figures in divergence.items()
    ]
    header = ["divergence", *(figure.title for figure in QUALITY)]
    kind = "held-out texts" if report.texts.origin == "held-out" else "texts"
    below = [f"KL in nats per token, +- its standard error over {len(report.texts.texts)} {kind}"]
    first = next(iter(report.divergence))
    below += [
        f"{form} - {first}, paired on the same texts: KL {Cell(signed_with_error(more.mean, more.stderr)).line}"
        for form, more in report.kl_difference.items()
    ]
    below += [line for form, figures in report.divergence.items() for line in _per_byte(form, figures)]
    return "\n".join([Table(header, rows, first=4).text, *map(prose, below)])


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


def _zero_shot_table(report: EvaluationReport) -> str:
    if not report.zero_shot:
        return ""
    rows = [
        [
            f"{task} {model}",
            str(figures.questions),
            *_accuracy(figures.acc, figures.questions),
            *_beside_dense(report, model, task),
            *_accuracy(figures.acc_norm, figures.questions),
            f"{figures.chance:.1%}",
        ]
        for task, model, figures in _answered(report, report.zero_shot)
    ]
    header = ["zero-shot", "questions", "acc", _INTERVAL, *_BESIDE_DENSE, "acc_norm", _INTERVAL, "chance"]
    return Table(header, rows, first=4).text


def _generation_table(report: EvaluationReport) -> str:
    if not report.generation:
        return ""
    rows = [
        [
            f"{task} {model}",
            str(figures.questions),
            *_accuracy(figures.exact_match, figures.questions),
            *_beside_dense(report, model, task),
            f"{figures.mean_tokens:.0f}",
            _share(figures.never_stopped),
        ]
        for task, model, figures in _answered(report, report.generation)
    ]
    header = ["generated", "questions", "exact match", _INTERVAL, *_BESIDE_DENSE, "tokens", "never stopped"]
    return Table(header, rows, first=4).text


def _answered(report: EvaluationReport, models: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """The figures of each task and model that answered its questions."""
    for task in report.tasks:
        yield from ((task, model, by_task[task]) for model, by_task in models.items() if task in by_task)


def _beside_dense(report: EvaluationReport, model: str, task: str) -> list[str]:
    """The cells of the columns `_BESIDE_DENSE`: a task's accuracy compared with the dense model's."""
    flips = report.flipped.get(model, {}).get(task)
    counts = ["-", "-"] if flips is None else [str(number) for number in flips.values()]
    retained = report.accuracy_retained.get(model, {}).get(task)
    return [
        _with_error(retained),
        _with_error(report.accuracy_difference.get(model, {}).get(task), signed=True),
        *counts,
    ]


def _with_error(share: Estimate | None, *, signed: bool = False) -> str:
    """Formats a share as a percentage with its standard error; a dash for None."""
    from validation.reports.document import Cell
    from validation.reports.numbers import percent_with_error

    return "-" if share is None else Cell(percent_with_error(share.mean, share.stderr, signed=signed)).line


def _accuracy(share: float | None, questions: int) -> list[str]:
    """The cells of a share of right answers and its interval."""
    from validation.reports.document import in_ascii
    from validation.reports.numbers import accuracy

    return [in_ascii(words) for words in accuracy(share, questions)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


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
