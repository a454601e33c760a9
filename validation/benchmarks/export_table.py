"""Ratios, sizes, parity, time and memory of `seap-export export`, as a Markdown table.

    python -m validation.benchmarks.export_table MODEL --task gsm8k=gsm8k.toml --task piqa=piqa.toml \\
        --ratio 0.2 --ratio 0.5

The dense model's bytes are those of its ratio-0 artifacts. Each task and ratio is exported in a separate
process, with --samples calibration texts, and measured as a whole: start, calibration, writing, parity.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from validation.benchmarks.process import ProcessFigures, measure, megabytes

__all__ = ["export_table"]


@click.command()
@click.argument("model")
@click.option("--task", "tasks", multiple=True, required=True, metavar="NAME=FILE")
@click.option("--ratio", "ratios", multiple=True, required=True, type=float)
@click.option("--samples", type=int, default=200, show_default=True)
def export_table(model: str, tasks: tuple[str, ...], ratios: tuple[float, ...], samples: int) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as scratch:
        dense, _ = _export(model, tasks[0], 0.0, samples, Path(scratch) / "dense")
        click.echo(
            _row(
                "variant",
                "requested",
                "achieved",
                "parameters",
                "safetensors",
                "ONNX",
                "max abs",
                "mean KL",
                "top-1",
                "wall",
                "peak memory",
            )
        )
        click.echo(_row(*["---"] * 11))
        click.echo(_row("dense", *_cells(dense, dense, None)))
        for task in tasks:
            for ratio in ratios:
                name = f"{task.partition('=')[0]}-{ratio:g}"
                variant, figures = _export(model, task, ratio, samples, Path(scratch) / name)
                click.echo(_row(name, *_cells(variant, dense, figures)))


def _export(model: str, task: str, ratio: float, samples: int, out: Path) -> tuple[dict[str, Any], ProcessFigures]:
    command = [sys.executable, "-c", "from seap_export.cli import main; main()", "export", model, "--task", task]
    figures = measure([*command, "--ratio", str(ratio), "--samples", str(samples), "--out", str(out), "--quiet"])
    (variant,) = json.loads((out / "manifest.json").read_text("utf-8"))["variants"].values()
    return variant, figures


def _cells(variant: dict[str, Any], dense: dict[str, Any], figures: ProcessFigures | None) -> list[str]:
    def size(part: str) -> str:
        own, whole = variant["bytes"][part], dense["bytes"][part]
        return f"{own / 1e6:.1f} MB ({own / whole:.1%})"

    parity = variant["parity"]
    return [
        f"{variant['requested_ratio']:g}",
        f"{variant['achieved_ratio']:.4f}",
        f"{variant['num_parameters']:,}",
        size("hf"),
        size("onnx"),
        f"{parity['max_abs']:.1e}",
        f"{parity['mean_kl_nats']:.1e}",
        f"{parity['top1_agreement']:.1%}",
        f"{figures.wall_s:.0f} s" if figures else "",
        megabytes(figures.peak_bytes) if figures else "",
    ]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    export_table()
