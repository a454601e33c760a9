"""Quality and size of a dense model and its variants in several precisions, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --samples 200 --held-out 32 --out DIR
    python tests/benchmarks precision_table MODEL --calibration DIR/calibration/gsm8k \
        --ratio 0.2 --ratio 0.5 --precision fp32 --precision int8 --precision int4

All are compared with the dense model in float32, in torch, on the held-out texts of the calibration; they run as ONNX
files on the CPU. 4 bits have two rows: rounded to the nearest level, and with the calibration texts. Rows are sorted
by size, so that a pruned model is next to a dense one of about the same size.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from benchmarks.shrinker import Shrinker

from converters.onnx import write_onnx
from converters.onnx.format import OnnxFormat
from converters.onnx.precision import PRECISIONS
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.open import open_source
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.recipes import DEFAULT_RECIPE, open_recipe
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.write import write_rounded_model
from validation.divergence.dense import DenseAnswers, DenseReference
from validation.divergence.measure import measure_divergence
from validation.prompts import tokenize_prompts
from validation.reports.markdown import markdown_table
from validation.reports.numbers import with_error


@dataclass(frozen=True)
class _Row:
    model: str
    precision: str
    rounding: str
    onnx_bytes: int
    mean_kl_nats: float
    mean_kl_nats_stderr: float | None
    perplexity: float
    top1_agreement: float

    def cells(self) -> tuple[str, ...]:
        size, perplexity = f"{self.onnx_bytes / 1e6:.1f} MB", f"{self.perplexity:.1f}"
        quality = (with_error(self.mean_kl_nats, self.mean_kl_nats_stderr), perplexity, f"{self.top1_agreement:.1%}")
        return self.model, self.precision, self.rounding, size, *quality


@click.command()
@click.argument("model")
@click.option("--calibration", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--precision", "precisions", multiple=True, required=True, type=click.Choice(PRECISIONS))
@click.option("--recipe", default=DEFAULT_RECIPE, show_default=True, metavar="NAME|FILE")
@click.option("--number", type=int, default=32, show_default=True, help="Texts that are evaluated.")
@click.option("--max-length", type=int, default=256, show_default=True, help="Tokens of an evaluated text.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the figures to this file.")
def precision_table(
    model: str,
    folder: Path,
    ratios: tuple[float, ...],
    precisions: tuple[Any, ...],
    recipe: str,
    number: int,
    max_length: int,
    json_file: Path | None,
) -> None:
    """Print the table, the largest file first."""
    source, calibration = open_source(model), Calibration(folder)
    statistics = TaskMixture(
        calibration.record.task, {calibration.record.task: 1.0}, {calibration.record.task: calibration}
    )
    shrinker, rows = Shrinker(source), []
    held_out = [sample["prompt"] + sample["completion"] for sample in calibration.record.held_out[:number]]
    with tempfile.TemporaryDirectory() as scratch:
        for ratio in (0.0, *ratios):
            name = f"{calibration.record.task}-{ratio:g}" if ratio else "dense"
            (Path(scratch) / name).mkdir()
            shrinker.write(calibration, open_recipe(recipe), ratio, Path(scratch) / name)
        dense = Path(scratch) / "dense"
        token_ids = tokenize_prompts(dense, held_out, max_tokens=max_length, vocab_size=source.spec.vocab_size)
        with DenseAnswers(dense) as answers:
            answers.run(token_ids)
            reference = answers.reference(token_ids)
            for path in sorted(Path(scratch).iterdir()):
                for format in map(OnnxFormat, precisions):
                    how = format.grid(read_spec(path))
                    for rounding in (None, how) if how else (None,):
                        rows.append(_row(reference, path, format, statistics, rounding))
                        click.echo(" ".join(rows[-1].cells()), err=True)
    head = ("model", "precision", "rounding", "ONNX", "mean KL", "perplexity", "top-1")
    click.echo(markdown_table(head, (row.cells() for row in sorted(rows, key=lambda row: -row.onnx_bytes))))
    if json_file:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", "utf-8", newline="\n")


def _row(
    reference: DenseReference, hf: Path, format: OnnxFormat, statistics: TaskMixture, how: BlockQuantization | None
) -> _Row:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as rounded:
        if how is not None:
            write_rounded_model(hf, statistics, how, Path(rounded))
        write_onnx(hf if how is None else Path(rounded), Path(folder), format.form)
        size = sum(path.stat().st_size for path in Path(folder).glob("model.onnx*"))
        figures = measure_divergence(reference, Path(folder), "onnxruntime")
    rounding = "" if format.form.precision.quantization is None else "nearest" if how is None else "calibrated"
    kl = figures.kl
    return _Row(
        hf.name, format.precision, rounding, size, kl.mean, kl.stderr, figures.perplexity, figures.top1_agreement
    )
