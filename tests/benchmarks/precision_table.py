"""Quality and size of a dense model and its variants in several precisions, as a Markdown table.

    seap-export calibrate MODEL --task gsm8k=gsm8k.toml --samples 200 --held-out 32 --out DIR
    python tests/benchmarks precision_table MODEL --calibration DIR/calibration/gsm8k \
        --ratio 0.2 --ratio 0.5 --precision fp32 --precision int8 --precision int4

All are compared with the dense model in float32, in torch, on the held-out texts of the calibration; they run as ONNX
files on the CPU. 4 bits have two rows: rounded to the nearest level, and with the calibration texts. Rows are sorted
by size, so that a pruned model is next to a dense one of about the same size.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.shrinker import Shrinker, dense_reference, held_out_texts, mixture_of
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
from validation.divergence.dense import DenseReference
from validation.divergence.measure import measure_divergence
from validation.reports.markdown import markdown_table
from validation.reports.numbers import with_error

#: Held-out texts that are evaluated.
_TEXTS = 32


@click.command()
@click.argument("model")
@click.option("--calibration", "folder", required=True, type=click.Path(path_type=Path))
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--precision", "precisions", multiple=True, required=True, type=click.Choice(PRECISIONS))
def precision_table(model: str, folder: Path, ratios: tuple[float, ...], precisions: tuple[Any, ...]) -> None:
    """Print the table, the largest file first."""
    shrinker, calibration, rows = Shrinker(open_source(model)), Calibration(folder), []
    with tempfile.TemporaryDirectory() as scratch:
        for ratio in (0.0, *ratios):
            name = f"{calibration.record.task}-{ratio:g}" if ratio else "dense"
            shrinker.write(calibration, open_recipe(DEFAULT_RECIPE), ratio, Path(scratch) / name)
        with dense_reference(Path(scratch) / "dense", held_out_texts(calibration, _TEXTS)) as reference:
            for path in sorted(Path(scratch).iterdir()):
                for format in map(OnnxFormat, precisions):
                    how = format.grid(read_spec(path))
                    for rounding in (None, how) if how else (None,):
                        rows.append(_row(reference, path, format, mixture_of(calibration), rounding))
                        click.echo(" ".join(rows[-1][1]), err=True)
    head = ("model", "precision", "rounding", "ONNX", "mean KL", "perplexity", "top-1")
    click.echo(markdown_table(head, (cells for _, cells in sorted(rows, key=lambda row: -row[0]))))


def _row(
    reference: DenseReference, hf: Path, format: OnnxFormat, statistics: TaskMixture, how: BlockQuantization | None
) -> tuple[int, tuple[str, ...]]:
    """Bytes of the ONNX files, and the cells."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as rounded:
        if how is not None:
            write_rounded_model(hf, statistics, how, Path(rounded))
        write_onnx(hf if how is None else Path(rounded), Path(folder), format.form)
        size = sum(path.stat().st_size for path in Path(folder).glob("model.onnx*"))
        found = measure_divergence(reference, Path(folder), "onnxruntime")
    rounding = "" if format.form.precision.quantization is None else "nearest" if how is None else "calibrated"
    quality = (with_error(found.kl.mean, found.kl.stderr), f"{found.perplexity:.1f}", f"{found.top1_agreement:.1%}")
    return size, (hf.name, format.precision, rounding, f"{size / 1e6:.1f} MB", *quality)
