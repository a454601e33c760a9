"""Writing a dense model's ONNX: this tool beside ONNX Runtime GenAI's builder, as a Markdown table.

    python -m validation.benchmarks.convert_table MODEL_FOLDER --genai-python GENAI_ENVIRONMENT/bin/python

GENAI_ENVIRONMENT needs onnxruntime-genai, onnxruntime, onnx-ir, torch and transformers. Both write fp32 for the CPU
provider from the same folder, in turn, one warm-up run and then --runs counted ones; medians of whole processes.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from validation.benchmarks.process import ProcessFigures, interleaved, measure

__all__ = ["convert_table"]


@click.command()
@click.argument("model_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--genai-python", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--runs", type=int, default=5, show_default=True)
def convert_table(model_folder: Path, genai_python: Path, runs: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = Path(scratch) / "ours", Path(scratch) / "genai"
        seap_export = [sys.executable, "-c", "from seap_export.cli import main; main()", "convert", "--quiet"]
        builder = [str(genai_python), "-m", "onnxruntime_genai.models.builder", "-p", "fp32", "-e", "cpu"]
        figures = interleaved(
            {
                "seap-export convert": _fresh(ours, [*seap_export, str(model_folder), "--out", str(ours)]),
                "onnxruntime-genai builder": _fresh(
                    theirs,
                    [*builder, "-i", str(model_folder), "-o", str(theirs), "-c", str(Path(scratch) / "cache")],
                ),
            },
            runs,
        )
        sizes = {"seap-export convert": _bytes(ours), "onnxruntime-genai builder": _bytes(theirs)}
    click.echo("| writer | wall, median | peak memory, median | on disk |\n| --- | --- | --- | --- |")
    for name, own in figures.items():
        click.echo(f"| {name} | {own.wall_s:.2f} s | {own.peak_bytes / 1e6:.0f} MB | {sizes[name] / 1e6:.1f} MB |")


def _fresh(out: Path, command: list[str]) -> Callable[[], ProcessFigures]:
    def run() -> ProcessFigures:
        shutil.rmtree(out, ignore_errors=True)
        return measure(command)

    return run


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    convert_table()
