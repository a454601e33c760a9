"""Compares the quality of recipes at the same ratios and from the same statistics, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --samples 200 --held-out 32 --out DIR
    python tests/benchmarks recipe_table MODEL --calibration DIR/calibration/gsm8k --ratio 0.2 --ratio 0.5 \
        --recipe seap --recipe reconstruct --recipe mine.toml

A recipe is the name of a shipped one or a TOML file. Each cell is KL(dense || shrunk) in
nats per token / perplexity, on the task's held-out texts, or on those of `--text TASK=CORPUS` instead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.shrinker import Shrinker, dense_reference, held_out_texts
from seap_export.corpus import Task, parse_tasks, split_samples
from seap_export.model.sources.open import open_source
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.plan.recipes import open_recipe
from validation.divergence.dense import DenseReference
from validation.divergence.measure import DivergenceFigures, measure_divergence
from validation.reports.markdown import markdown_table
from validation.reports.numbers import with_error

Words = tuple[str, ...]


@click.command()
@click.argument("model")
@click.option("--calibration", "folders", multiple=True, required=True, type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--recipe", "recipes", multiple=True, required=True, metavar="NAME|FILE")
@click.option("--text", "texts", multiple=True, metavar="TASK=CORPUS", help="Evaluate a task on other texts.")
@click.option("--number", type=int, default=32, show_default=True, help="Texts of a task that are evaluated.")
def recipe_table(
    model: str, folders: tuple[Path, ...], ratios: tuple[float, ...], recipes: Words, texts: Words, number: int
) -> None:
    """Print the table; the first recipe is what the others are compared with."""
    shrinker = Shrinker(open_source(model))
    others = {task.name: task for task in parse_tasks(texts)}
    found: dict[str, dict[str, DivergenceFigures]] = {text: {} for text in recipes}
    with tempfile.TemporaryDirectory() as scratch:
        dense, calibrations = Path(scratch), [Calibration(folder) for folder in folders]
        shrinker.write(calibrations[0], open_recipe(recipes[0]), 0.0, dense)
        for calibration in calibrations:
            held_out = _texts(calibration, others.get(calibration.record.task), number)
            with dense_reference(dense, held_out) as reference:
                for text in recipes:
                    found[text] |= _measured(shrinker, calibration, text, ratios, reference)
    click.echo(_table(found))


def _texts(calibration: Calibration, other: Task | None, number: int) -> list[str]:
    if other is None:
        return held_out_texts(calibration, number)
    split = split_samples(other.name, other.texts(), num_samples=1, num_held_out=number, seed=0)
    return [sample.text for sample in split.held_out]


def _measured(
    shrinker: Shrinker, calibration: Calibration, text: str, ratios: Sequence[float], reference: DenseReference
) -> dict[str, DivergenceFigures]:
    found = {}
    for ratio in ratios:
        with tempfile.TemporaryDirectory() as folder:
            achieved = shrinker.write(calibration, open_recipe(text), ratio, Path(folder))
            figures = measure_divergence(reference, Path(folder))
        column = f"{calibration.record.task} {ratio:g}"
        found[column] = figures
        click.echo(
            f"{column} {text}: {_cell(figures)} (dense {figures.dense_perplexity:.1f}), {achieved:.4f}", err=True
        )
    return found


def _cell(figures: DivergenceFigures) -> str:
    return f"{with_error(figures.kl.mean, figures.kl.stderr)} / {figures.perplexity:.1f}"


def _table(found: dict[str, dict[str, DivergenceFigures]]) -> str:
    """A row for each recipe; the last column is the mean of its KL as a fraction of the first recipe's."""
    first = next(iter(found.values()))
    rows = []
    for text, row in found.items():
        fractions = [figures.kl.mean / first[column].kl.mean for column, figures in row.items()]
        rows.append((text, *map(_cell, row.values()), f"{sum(fractions) / len(fractions):.2f}"))
    return markdown_table(("recipe", *first, "mean KL ratio"), rows)
