"""`seap-export predict`: answers a table of inputs with a variant that has learnt a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from seap_export.api.generation import AnswerOptions
from seap_export.api.options import RunOptions
from seap_export.cli.console import Console
from seap_export.cli.generation import machine_options, open_generator, own_folder
from seap_export.cli.groups import GroupedCommand, number_option, option, titled
from seap_export.cli.options import option_of
from seap_export.cli.values import ExistingPath, PathType

if TYPE_CHECKING:
    from seap_export.pipeline.predict import Predictions


@click.command("predict", cls=GroupedCommand)
@click.argument("folder", type=ExistingPath())
@click.argument("inputs", type=PathType())
@titled("Generation", option_of(AnswerOptions, "max_new_tokens"))
@titled(
    "Output",
    option(
        "--out",
        type=PathType(),
        required=True,
        help="Write the records with their answers, in the field 'prediction', to this .csv or .jsonl file.",
    ),
    option_of(RunOptions, "force"),
)
@titled(
    "Quality gate",
    option(
        "--min-accuracy",
        type=click.FloatRange(0.0, 1.0),
        metavar="F",
        help="Smallest share of right answers, such as 0.95; INPUTS then has them.",
    ),
)
@number_option("--batch-size", "batch_size", "Records that are answered at once.", default=16, show_default=True)
@machine_options
def predict_command(
    console: Console,
    folder: Path,
    inputs: Path,
    max_new_tokens: int,
    out: Path,
    force: bool,
    min_accuracy: float | None,
    batch_size: int,
    provider: str,
    threads: int | None,
) -> None:
    """Answer every record of INPUTS with the variant in FOLDER, and say how many answers are right.

    FOLDER is a variant that has learnt a job, exported with --task NAME=FILE:INPUT:ANSWER, or its onnx folder. INPUTS
    is a table with the same input field: CSV, TSV, JSONL, JSON or Parquet. If it has the right answers, too, they are
    compared, and the exit code is 4 if fewer are right than --min-accuracy says. A run that is broken off leaves
    OUT.part, and the same command goes on from there.

    \b
    Examples:
      seap-export predict pruned/intents-0.6 inbox.csv --out answers.csv
      seap-export predict pruned/intents-0.6 test.csv --out answers.csv --min-accuracy 0.95
    """
    from seap_export.cli.errors import Failure
    from seap_export.errors import QualityFailure, refuse_less
    from seap_export.pipeline.predict import predict

    refuse_less(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
    generator = open_generator(console, folder, provider, threads)
    predictions = predict(
        generator,
        own_folder(folder),
        inputs,
        out,
        console,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        is_judged=min_accuracy is not None,
        force=force,
    )
    found, summary = {**predictions.to_json(), "out": str(out)}, _summary(predictions, out, max_new_tokens)
    share = predictions.share
    if min_accuracy is not None and share is not None and share < min_accuracy:
        console.text(summary)
        words = f"{inputs}: {share:.2%} of the answers are right, below {min_accuracy:.2%}"
        raise Failure(words, QualityFailure.exit_code, found)
    console.result(found, summary)


def _summary(predictions: Predictions, out: Path, max_new_tokens: int) -> str:
    from validation.reports.numbers import accuracy

    lines = [f"{out}: {predictions.rows:,} answers"]
    if (known := predictions.rows - predictions.fresh) > 0:
        lines.append(f"{known:,} of them are those of the run that was broken off")
    if predictions.unfinished:
        lines.append(f"{predictions.unfinished:,} did not end within {max_new_tokens} tokens; raise --max-new-tokens")
    if predictions.learnt:
        lines.append(f"{predictions.learnt:,} of the rows were learnt, and are not judged")
    if predictions.right is not None:
        share, interval = accuracy(predictions.share, predictions.judged)
        lines.append(f"right: {predictions.right:,} of {predictions.judged:,}, {share} ({interval})")
    lines += [f"  {row}: {ours!r} for {right!r}" for row, ours, right in predictions.wrong]
    return "\n".join(lines)
