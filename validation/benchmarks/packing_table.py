"""Whether gate and up are faster as one product than as two, as a Markdown table.

    python -m validation.benchmarks.packing_table MODEL_FOLDER

The MLPs of the first layers behind each other, with the model's weights, in ONNX Runtime on the CPU, both in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

from converters import operators as op
from converters.dialects import open_dialect
from converters.graph import GraphBuilder
from converters.linear import Linears
from converters.precision import PrecisionName, choose_precision
from converters.weights import open_weights
from seap_export.families import model_spec
from seap_export.runtime.session import open_session
from seap_export.sources.config import read_json

__all__ = ["packing_table"]

_LAYERS = 8
#: Idle threads of the session before spin for some milliseconds; the next one should not meet them.
_PAUSE_SECONDS, _RUNS_A_TURN = 0.05, 3


@click.command()
@click.argument("model", metavar="MODEL_FOLDER", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--precision", "precisions", multiple=True, type=click.Choice(["fp32", "int8", "int4"]))
@click.option("--rows", multiple=True, type=click.IntRange(1), default=(1, 128, 512), show_default=True)
@click.option("--runs", type=click.IntRange(1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True)
def packing_table(
    model: Path, precisions: tuple[PrecisionName, ...], rows: tuple[int, ...], runs: int, threads: int
) -> None:
    """Print the table."""
    click.echo("| precision | tokens | two products | one | one / two |\n| --- | --- | --- | --- | --- |")
    for precision in precisions or ("fp32", "int8", "int4"):
        with tempfile.TemporaryDirectory() as folder:
            sessions = [_session(model, precision, packed, Path(folder), threads) for packed in (False, True)]
            for number in rows:
                two, one = _medians(sessions, number, runs)
                click.echo(f"| {precision} | {number} | {two:.2f} ms | {one:.2f} ms | {one / two:.2f} |")


def _session(model: Path, precision: PrecisionName, packed: bool, folder: Path, threads: int) -> Any:
    spec = model_spec(read_json(model / "config.json"))
    family, weights, g = spec.family, open_weights(model, spec, choose_precision(precision)), GraphBuilder("mlps")
    x = g.input("x", ir.DataType.FLOAT, ["batch_size", "sequence_length", spec.hidden_size])
    ids, mask = (g.input(name, ir.DataType.INT64, ["batch_size", "sequence_length"]) for name in ("ids", "mask"))
    dialect = open_dialect("fused", g, ids, mask, x, x)
    linears = Linears(g, weights, dialect)
    for layer in range(min(_LAYERS, len(spec.layers))):
        name, size = f"layers.{layer}", spec.layers[layer].intermediate_size
        sources = [family.weight(half, layer) for half in ("gate_proj", "up_proj")]
        if packed:
            both = linears.product(x, sources, f"{name}.gate_up", stored_as=f"{name}.gate_up")
            gate, up = op.split(g, both, (size, size), f"{name}.split", ["gate", "up"])
        else:
            gate, up = (linears.product(x, [source], source, stored_as=source) for source in sources)
        gated = op.multiply(g, dialect.silu(gate, f"{name}.silu"), up, f"{name}.gated")
        down = family.weight("down_proj", layer)
        x = linears.product(gated, [down], down, stored_as=down)
    g.output(x, "y", ir.DataType.FLOAT, ["batch_size", "sequence_length", spec.hidden_size])
    path = folder / f"{packed}.onnx"
    ir.save(g.build("packing_table"), path, external_data=f"{packed}.data")
    return open_session(path, threads=threads)


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
                session.run(["y"], feeds)
                if run:
                    own.append(time.perf_counter() - start)
    return [1e3 * statistics.median(own) for own in seconds]


if __name__ == "__main__":
    packing_table()
