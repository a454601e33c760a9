"""Compares the quality of recipes at the same ratios and from the same statistics, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --samples 200 --held-out 32 --out DIR
    python tests/benchmarks recipe_table MODEL --calibration DIR/calibration/gsm8k --ratio 0.2 --ratio 0.5 \
        --recipe seap --recipe reconstruct --recipe mine.toml

A recipe is the name of a shipped one or a TOML file. Each cell is KL(dense || shrunk) in
nats per token / perplexity, on the task's held-out texts, or on those of `--text TASK=CORPUS` instead.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from benchmarks.shrinker import Shrinker

from seap_export.corpus import Task, parse_tasks, split_samples
from seap_export.model.sources.open import open_source
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.plan.recipes import open_recipe
from validation.divergence.dense import DenseAnswers, DenseReference
from validation.divergence.measure import measure_divergence
from validation.prompts import tokenize_prompts
from validation.reports.markdown import markdown_table
from validation.reports.numbers import with_error


@dataclass(frozen=True)
class _Cell:
    mean_kl_nats: float
    mean_kl_nats_stderr: float | None
    perplexity: float
    dense_perplexity: float
    top1_agreement: float
    achieved_ratio: float

    def __str__(self) -> str:
        return f"{with_error(self.mean_kl_nats, self.mean_kl_nats_stderr)} / {self.perplexity:.1f}"


@click.command()
@click.argument("model")
@click.option("--calibration", "folders", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--recipe", "recipes", multiple=True, required=True, metavar="NAME|FILE")
@click.option("--text", "texts", multiple=True, metavar="TASK=CORPUS", help="Evaluate a task on other texts.")
@click.option("--number", type=int, default=32, show_default=True, help="Texts of a task that are evaluated.")
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens of an evaluated text.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def recipe_table(
    model: str,
    folders: tuple[Path, ...],
    ratios: tuple[float, ...],
    recipes: tuple[str, ...],
    texts: tuple[str, ...],
    number: int,
    max_length: int,
    json_file: Path | None,
) -> None:
    """Print the table; the first recipe is what the others are compared with."""
    source = open_source(model)
    shrinker = Shrinker(source)
    others = {task.name: task for task in parse_tasks(texts)}
    cells: dict[str, dict[str, _Cell]] = {text: {} for text in recipes}
    with tempfile.TemporaryDirectory() as scratch:
        dense = Path(scratch)
        calibrations = [Calibration(folder) for folder in folders]
        shrinker.write(calibrations[0], open_recipe(recipes[0]), 0.0, dense)
        for calibration in calibrations:
            held_out = _texts(calibration, others.get(calibration.record.task), number)
            token_ids = tokenize_prompts(dense, held_out, max_tokens=max_length, vocab_size=source.spec.vocab_size)
            with DenseAnswers(dense) as answers:
                answers.run(token_ids)
                reference = answers.reference(token_ids)
                for text in recipes:
                    cells[text] |= _cells(shrinker, calibration, text, ratios, reference)
    click.echo(_table(cells))
    if json_file:
        values = {text: {column: asdict(cell) for column, cell in row.items()} for text, row in cells.items()}
        json_file.write_text(json.dumps(values, indent=1) + "\n", "utf-8", newline="\n")


def _texts(calibration: Calibration, other: Task | None, number: int) -> list[str]:
    if other is None:
        return [sample["prompt"] + sample["completion"] for sample in calibration.record.held_out[:number]]
    split = split_samples(other.name, other.texts(), num_samples=1, num_held_out=number, seed=0)
    return [sample.text for sample in split.held_out]


def _cells(
    shrinker: Shrinker, calibration: Calibration, text: str, ratios: Sequence[float], reference: DenseReference
) -> dict[str, _Cell]:
    cells = {}
    for ratio in ratios:
        with tempfile.TemporaryDirectory() as folder:
            achieved = shrinker.write(calibration, open_recipe(text), ratio, Path(folder))
            figures = measure_divergence(reference, Path(folder))
        column = f"{calibration.record.task} {ratio:g}"
        cells[column] = cell = _Cell(
            figures.kl.mean,
            figures.kl.stderr,
            figures.perplexity,
            figures.dense_perplexity,
            figures.top1_agreement,
            achieved,
        )
        click.echo(f"{column} {text}: {cell} (dense {figures.dense_perplexity:.1f}), {achieved:.4f}", err=True)
    return cells


def _table(cells: dict[str, dict[str, _Cell]]) -> str:
    """A row for each recipe; the last column is the mean of its KL as a fraction of the first recipe's."""
    first = next(iter(cells.values()))
    rows = []
    for text, row in cells.items():
        fractions = [cell.mean_kl_nats / first[column].mean_kl_nats for column, cell in row.items()]
        rows.append((text, *map(str, row.values()), f"{sum(fractions) / len(fractions):.2f}"))
    return markdown_table(("recipe", *first, "mean KL ratio"), rows)
