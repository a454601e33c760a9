"""Runs models in every runtime and writes the tables of docs/research/runtimes.md.

    python -m validation.benchmarks.runtime_table parity --work DIR --out docs/research/runtimes.md
    python -m validation.benchmarks.runtime_table speed DENSE PRUNED --work DIR \\
        --texts seap_export/corpus/samples/reading.txt \\
        --out docs/research/runtimes.md

`parity`: small models of every family with random weights, dense and with layers of different shapes, in every format,
precision and runtime, compared with torch as `validate` does. `speed`: one model, as the folders `hf` of a dense model
and of a variant; a prompt of 128 tokens and then tokens one at a time, batch 1, on the CPU.

Every result is kept in --work as soon as it is there, and not made again; delete a file to repeat it. A runtime that
is missing is left out, and tried again the next time. Without --out the tables are printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import click
import numpy as np

from converters.formats import parse_format
from seap_export.corpus import Task
from seap_export.errors import EnvironmentFailure, SeapError
from seap_export.families import supported_families
from seap_export.sources.config import read_spec
from validation.benchmarks.runtimes.cells import Cell, Outcome, all_cells, run_cell
from validation.benchmarks.runtimes.contest import (
    Entry,
    Figures,
    divergence,
    entries,
    figures,
    time_round,
    write_entry,
)
from validation.benchmarks.runtimes.filled import fill
from validation.benchmarks.runtimes.kept import Kept
from validation.benchmarks.runtimes.parity_tables import parity_tables
from validation.benchmarks.runtimes.speed_table import speed_table
from validation.divergence.measure import DenseAnswers
from validation.execution import Execution
from validation.prompts import tokenize_prompts
from validation.runtimes.table import RUNTIMES, open_runtime, require_runtime

__all__ = ["runtime_table"]

#: What `speed` runs unless it is told otherwise.
_FORMATS = (
    "onnx:fp32", "onnx:int8", "onnx:int4", "gguf:f16", "gguf:q8_0", "gguf:q4_0", "openvino:fp32", "openvino:int8",
    "openvino:int4", "web:q8", "web:q4", "mlx:fp16", "mlx:4bit", "hf:fp32",
)  # fmt: skip
_MODEL = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_WORK = click.option("--work", required=True, type=click.Path(file_okay=False, path_type=Path), help="Results so far.")
_OUT = click.option("--out", type=_FILE, help="A page to fill.")
_ONLY = click.option("--only", multiple=True, type=click.Choice(list(RUNTIMES)), help="These runtimes alone.")
_THREADS = click.option("--threads", type=click.IntRange(1), default=2, show_default=True)


@click.group()
def runtime_table() -> None:
    """Run models in every runtime."""


@runtime_table.command()
@_WORK
@_OUT
@_ONLY
@_THREADS
@click.option("--family", "families", multiple=True, type=click.Choice(supported_families()))
def parity(work: Path, out: Path | None, only: tuple[str, ...], threads: int, families: tuple[str, ...]) -> None:
    """Compare small models of every family with torch."""
    (work / "models").mkdir(parents=True, exist_ok=True)
    kept, outcomes = Kept(work / "parity"), dict[Cell, Outcome]()
    absent = _absent(only)
    for cell in all_cells(only, families):
        names = (cell.runtime, cell.format, cell.precision, cell.family, cell.kind)
        known = kept.get(*names)
        if known is not None:
            outcomes[cell] = Outcome.from_json(known)
        elif cell.runtime in absent:
            outcomes[cell] = Outcome("missing", reason=absent[cell.runtime])
        else:
            outcomes[cell] = run_cell(cell, work / "models", threads)
            click.echo(f"{' '.join(names)}: {outcomes[cell].state} {outcomes[cell].reason}", err=True)
            if outcomes[cell].state != "missing":
                kept.put(outcomes[cell].to_json(), *names)
    _show(out, "parity", parity_tables(outcomes))


@runtime_table.command()
@click.argument("dense", type=_MODEL)
@click.argument("pruned", type=_MODEL)
@click.option("--texts", required=True, type=_FILE, help="A corpus or task file; divergence is measured on its texts.")
@click.option("--number", type=click.IntRange(1), default=16, show_default=True, help="Texts.")
@click.option("--format", "formats", multiple=True, default=_FORMATS, metavar="NAME:PRECISION")
@click.option("--prompt-tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=64, show_default=True, help="Tokens after the prompt.")
@click.option("--rounds", type=click.IntRange(0), default=7, show_default=True)
@_WORK
@_OUT
@_ONLY
@_THREADS
def speed(
    dense: Path, pruned: Path, texts: Path, number: int, formats: tuple[str, ...], prompt_tokens: int, steps: int,
    rounds: int, work: Path, out: Path | None, only: tuple[str, ...], threads: int,
) -> None:  # fmt: skip
    """Time one model, dense and pruned, and measure its divergence from the dense one in torch."""
    chosen = []
    for text in formats:
        format, precision = parse_format(text)
        chosen.append((format.name, precision or format.precisions[0]))
    kept = Kept(work / "speed")
    rows = entries({"dense": dense.absolute(), "pruned": pruned.absolute()}, chosen, only)
    ready = _written(rows, work / "folders", threads, kept)
    vocabulary = read_spec(dense).vocab_size
    samples = [sample.prompt + sample.completion for sample in islice(Task("texts", texts).texts(), number)]
    token_ids = tokenize_prompts(dense, samples, max_tokens=prompt_tokens, vocab_size=vocabulary)
    _measure_divergence(dense, token_ids, ready, threads, kept)
    prompt = np.random.default_rng(0).integers(0, vocabulary, prompt_tokens).tolist()
    for turn in range(rounds):
        time_round(ready, turn, prompt, steps, threads, kept, _say)
    measured = {entry: figures(entry, kept) for entry in rows}
    _show(out, "speed", speed_table({entry: row for entry, row in measured.items() if row != Figures()}))


def _absent(only: Sequence[str]) -> dict[str, str]:
    """The runtimes that this machine lacks, and why."""
    reasons = {}
    for runtime in only or RUNTIMES:
        try:
            require_runtime(runtime)
        except EnvironmentFailure as error:
            reasons[runtime] = str(error)
            _say(f"left out: {error}")
    return reasons


def _written(rows: Sequence[Entry], work: Path, threads: int, kept: Kept) -> list[tuple[Entry, Path]]:
    """The entries that can be run, with their folders; of what is refused the reason is kept."""
    written = []
    for entry in rows:
        try:
            folder = write_entry(entry, work, threads)
        except EnvironmentFailure as error:
            _say(f"{entry.name}: left out: {error}")
        except SeapError as error:
            kept.put({"reason": str(error)}, entry.name)
        else:
            written.append((entry, folder))
    return written


def _measure_divergence(
    dense: Path,
    token_ids: Sequence[tuple[int, ...]],
    ready: Sequence[tuple[Entry, Path]],
    threads: int,
    kept: Kept,
) -> None:
    missing = [(entry, folder) for entry, folder in ready if kept.get(entry.name) is None]
    if not missing:
        return
    with DenseAnswers(dense, Execution(threads=threads)) as answers:
        answers.run(token_ids)
        reference = answers.reference(token_ids)
        for entry, folder in missing:
            with closing(open_runtime(entry.runtime, folder, Execution(threads=threads), "served")) as runner:
                mean_kl = divergence(runner, reference)
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            kept.put({"size": size, "mean_kl": mean_kl}, entry.name)
            _say(f"{entry.name}: {size / 1e6:.1f} MB, KL {mean_kl:.4f}")


def _show(out: Path | None, name: str, text: str) -> None:
    if out is None:
        click.echo(text)
    else:
        fill(out, name, text)


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    runtime_table()
