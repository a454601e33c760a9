"""Compares the zero-shot accuracy of recipes and of the dense model, as a Markdown table.

    seap-export calibrate MODEL --task piqa=piqa.toml --task wikitext2=wikitext2.toml --samples 200 --out DIR
    python tests/benchmarks zero_shot_table MODEL --calibrations DIR/calibration \
        --questions piqa=piqa_validation.toml --ratio 0.5 --limit 500 \
        --recipe wanda-sp@wikitext2 --recipe flap@wikitext2 --recipe seap --recipe reconstruct --json figures.json

A recipe is the name of a shipped one or a TOML file; its statistics are those of the questions' task, or, with
`@TASK`, those of one task for all questions. MODEL is a model folder. Cells are acc / acc_norm in per cent. Each
figure is written to the JSON file at once; a second run continues where the first one stopped.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.shrinker import Shrinker
from seap_export.corpus import Task, parse_tasks, text_digest
from seap_export.model.sources.open import open_source
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.plan.recipes import open_recipe
from validation.reports.markdown import markdown_table
from validation.zero_shot.evaluate import evaluate_zero_shot
from validation.zero_shot.questions import Question, read_questions
from validation.zero_shot.tasks import HarnessTask, local_task

_BATCH = 16
Names = tuple[str, ...]
Figures = dict[str, dict[str, Any]]


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--calibrations", "folder", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--questions", multiple=True, required=True, metavar="TASK=FILE")
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--recipe", "recipes", multiple=True, required=True, metavar="NAME|FILE[@TASK]")
@click.option("--limit", type=int, default=500, show_default=True, help="Questions per task.")
@click.option("--json", "json_file", required=True, type=click.Path(path_type=Path), help="File for the figures.")
def zero_shot_table(
    model: Path, folder: Path, questions: Names, ratios: tuple[float, ...], recipes: Names, limit: int, json_file: Path
) -> None:
    """Print the table."""
    tasks = {task.name: local_task(task.name, _questions(task, folder, limit)) for task in parse_tasks(questions)}
    figures: Figures = json.loads(json_file.read_text("utf-8")) if json_file.exists() else {}
    _measure(figures, json_file, "dense", tasks, model)
    shrinker = Shrinker(open_source(str(model)))
    for ratio in sorted(ratios, reverse=True):
        for text in recipes:
            for group in [tasks] if "@" in text else [{name: task} for name, task in tasks.items()]:
                row = f"{text} {ratio:g}"
                if all(name in figures.get(row, {}) for name in group):
                    continue
                settings, _, general = text.partition("@")
                calibration = Calibration(folder / (general or next(iter(group))))
                with tempfile.TemporaryDirectory() as shrunk:
                    achieved = shrinker.write(calibration, open_recipe(settings), ratio, Path(shrunk))
                    _measure(figures, json_file, row, group, Path(shrunk), achieved)
    click.echo(_table(figures, list(tasks), [f"{text} {ratio:g}" for ratio in ratios for text in recipes]))


def _questions(task: Task, calibrations: Path, limit: int) -> list[Question]:
    """The first questions that no task was calibrated on, since some benchmarks have a question in both splits."""
    records = [Calibration(folder).record for folder in sorted(calibrations.iterdir())]
    seen = {digest for record in records for digest in record.calibration_texts}
    fresh = [question for question in read_questions(task) if text_digest(question.text) not in seen]
    return fresh[:limit]


def _measure(
    figures: Figures, json_file: Path, row: str, tasks: dict[str, HarnessTask], folder: Path, achieved: float = 0.0
) -> None:
    for name, task in tasks.items():
        if name in figures.setdefault(row, {}):
            continue
        measured = evaluate_zero_shot(folder, [task], batch_size=_BATCH)[name]
        figures[row][name] = {**vars(measured), "achieved_ratio": achieved}
        json_file.write_text(json.dumps(figures, indent=1) + "\n", "utf-8", newline="\n")
        click.echo(f"{row} {name}: {measured.acc:.3f} / {measured.acc_norm or 0.0:.3f}", err=True)


def _table(figures: Figures, tasks: list[str], rows: list[str]) -> str:
    def cells(row: str) -> list[str]:
        pairs = [(figures[row][task]["acc"], figures[row][task]["acc_norm"]) for task in tasks]
        pairs.append(tuple(sum(metric) / len(pairs) for metric in zip(*pairs, strict=True)))
        return [row, *(f"{acc:.1%} / {acc_norm:.1%}" for acc, acc_norm in pairs)]

    return markdown_table(("recipe, ratio", *tasks, "mean"), map(cells, ["dense", *rows]))
