"""Measures whether projections of one input are faster as one product, split afterwards, than as separate products.

    python -m validation.benchmarks.packing_table MODEL_FOLDER

A Markdown table of gate and up, and of queries, keys and values where they must be split (qwen3 normalises heads;
other families pass one product to attention as it is). Each session runs the MLPs, or the attention projections, of
the first layers one after another, with the model's weights, in ONNX Runtime on the CPU, both ways in turn. The speed
of a session varies by up to a tenth with the location of its memory, so each round opens both sessions anew.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

from converters.onnx import operators as op
from converters.onnx.dialects import open_dialect
from converters.onnx.graph import GraphBuilder
from converters.onnx.linear import Linears
from converters.onnx.precision import PrecisionName, choose_precision
from converters.onnx.rotary import RotaryTables
from converters.onnx.weights import open_weights
from seap_export.families import ModelSpec, model_spec, names
from seap_export.families.names import QKV, Projection
from seap_export.runtime.session import open_session
from seap_export.sources.config import read_json

__all__ = ["packing_table"]

_LAYERS = 8
_JOINT: dict[str, tuple[Projection, ...]] = {"mlp": ("gate_proj", "up_proj"), "attention": QKV}
#: Idle threads of the previous session spin for some milliseconds and would slow down the next one.
_PAUSE_SECONDS, _RUNS_A_TURN = 0.05, 3


@click.command()
@click.argument("model", metavar="MODEL_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["fp32", "int8", "int4"]))
@click.option("--half", "halves", multiple=True, type=click.Choice(["mlp", "attention"]))
@click.option("--rows", multiple=True, type=click.IntRange(1), default=(1, 128, 512), show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=3, show_default=True, help="Turns per round.")
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
def packing_table(
    model: Path,
    precisions: tuple[PrecisionName, ...],
    halves: tuple[str, ...],
    rows: tuple[int, ...],
    rounds: int,
    runs: int,
    threads: int,
) -> None:
    """Print the table."""
    click.echo("| products | precision | tokens | apart | as one | one / apart | in each round |\n|" + " --- |" * 7)
    for half, precision in itertools.product(halves or ("mlp", "attention"), precisions or ("fp32", "int8", "int4")):
        with tempfile.TemporaryDirectory() as folder:
            paths = [_graph(model, half, precision, packed, Path(folder)) for packed in (False, True)]
            times: dict[int, list[list[float]]] = {number: [] for number in rows}
            for _ in range(rounds):
                sessions = [open_session(path, threads=threads) for path in paths]
                for number in rows:
                    times[number].append(_medians(sessions, number, runs))
        for number in rows:
            click.echo(f"| {', '.join(_JOINT[half])} | {precision} | {number} | {_figures(times[number])} |")


def _figures(times: list[list[float]]) -> str:
    apart, one = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(packed / alone for alone, packed in times)
    ratio = f"{statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"{apart:.2f} ms | {one:.2f} ms | {ratio}"


def _graph(model: Path, half: str, precision: PrecisionName, packed: bool, folder: Path) -> Path:
    spec = model_spec(read_json(model / "config.json"))
    weights, g = open_weights(model, spec, choose_precision(precision)), GraphBuilder("halves")
    x = g.input("x", ir.DataType.FLOAT, ["batch_size", "sequence_length", spec.hidden_size])
    ids, mask = (g.input(name, ir.DataType.INT64, ["batch_size", "sequence_length"]) for name in ("ids", "mask"))
    dialect = open_dialect("fused", "cpu", g, ids, mask, RotaryTables(g, spec, weights.precision))
    linears = Linears(g, weights, dialect)
    for layer in range(min(_LAYERS, len(spec.layers))):
        parts = _projections(g, linears, spec, layer, _JOINT[half], x, packed)
        if half == "mlp":
            width = spec.layers[layer].intermediate_size
            x = dialect.gated(spec.block.activation, parts[0], parts[1], width, f"layers.{layer}.gated")
        else:
            x, *others = parts
            for label, value in zip(("keys", "values"), others, strict=True):
                g.output(
                    value, f"layers.{layer}.{label}", ir.DataType.FLOAT, ["batch_size", "sequence_length", "width"]
                )
        last = names.weight("down_proj" if half == "mlp" else "o_proj", layer)
        x = linears.product(x, [last], last, stored_as=last)
    g.output(x, "y", ir.DataType.FLOAT, ["batch_size", "sequence_length", spec.hidden_size])
    path = folder / f"{packed}.onnx"
    ir.save(g.build("packing_table"), path, external_data=f"{packed}.data")
    return path


def _projections(
    g: GraphBuilder,
    linears: Linears,
    spec: ModelSpec,
    layer: int,
    projections: Sequence[Projection],
    x: ir.Value,
    packed: bool,
) -> Sequence[ir.Value]:
    sources = [names.weight(projection, layer) for projection in projections]
    if not packed:
        return [linears.product(x, [source], source, stored_as=source) for source in sources]
    joint = linears.product(x, sources, f"layers.{layer}.joint", stored_as=f"layers.{layer}.joint")
    sizes = [spec.projection_shape(projection, layer)[0] for projection in projections]
    return op.split(g, joint, sizes, f"layers.{layer}.split", projections)


def _medians(sessions: list[Any], rows: int, runs: int) -> list[float]:
    """Milliseconds of a run of each session; in each turn the first run is not counted."""
    size = next(item.shape[2] for item in sessions[0].get_inputs() if item.name == "x")
    feeds = {
        "x": np.random.default_rng(0).standard_normal((1, rows, size)).astype(np.float32),
        **{name: np.ones((1, rows), np.int64) for name in ("ids", "mask")},
    }
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(runs):
        for own, session in zip(seconds, sessions, strict=True):
            time.sleep(_PAUSE_SECONDS)
            for run in range(1 + _RUNS_A_TURN):
                start = time.perf_counter()
                session.run(None, feeds)
                if run:
                    own.append(time.perf_counter() - start)
    return [1e3 * statistics.median(own) for own in seconds]


if __name__ == "__main__":
    packing_table()
