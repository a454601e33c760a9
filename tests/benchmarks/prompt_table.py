"""Times of ONNX folders beside each other: a prompt, a decode step, and both in one request, as a Markdown table.

    seap-export convert MODEL --precision int8 --out int8
    seap-export convert MODEL --precision w8a8 --calibration DIR/calibration/gsm8k --out w8a8
    python tests/benchmarks prompt_table int8 w8a8 --tokens 512 --threads 2

Every round times all folders, in turn and in the other direction each time. Ratios are medians over the rounds of a
time over the first folder's in the same round, so that what else the machine does counts on both sides. With one
thread, times are those of the processor, which other programs hardly change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from seap_export.common.json_file import read_json
from seap_export.runtime.decoding.decoder import OnnxDecoder
from validation.reports.markdown import markdown_table


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tokens", type=int, default=512, show_default=True, help="Length of the prompt.")
@click.option("--steps", type=int, default=16, show_default=True, help="Decode steps after each prompt.")
@click.option("--rounds", type=int, default=7, show_default=True)
@click.option("--threads", type=int, default=2, show_default=True)
def prompt_table(folders: tuple[Path, ...], tokens: int, steps: int, rounds: int, threads: int) -> None:
    """Print the table."""
    decoders = [_opened(folder, threads) for folder in folders]
    clock = time.thread_time if threads == 1 else time.perf_counter
    ids = np.random.default_rng(0).integers(3, _vocab_size(folders[0]), tokens).tolist()
    for decoder in decoders:
        _times(decoder, ids, steps, clock)  # the first call of a session makes what it keeps
    taken = np.zeros((rounds, len(folders), 2))
    for number in range(rounds):
        order = range(len(folders)) if number % 2 else reversed(range(len(folders)))
        for place in order:
            taken[number, place] = _times(decoders[place], ids, steps, clock)
    rows = [_cells(folder, taken, place) for place, folder in enumerate(folders)]
    click.echo(markdown_table(("folder", f"prompt of {tokens}", "ratio", "decode step", "ratio", "weights"), rows))


def _opened(folder: Path, threads: int) -> OnnxDecoder:
    config = read_json(folder / "genai_config.json")
    return OnnxDecoder(folder / "model.onnx", config["model"]["context_length"], threads=threads)


def _vocab_size(folder: Path) -> int:
    return int(read_json(folder / "genai_config.json")["model"]["vocab_size"])


def _times(decoder: OnnxDecoder, ids: Sequence[int], steps: int, clock: Callable[[], float]) -> tuple[float, float]:
    start = clock()
    decoding = decoder.start([ids], steps + 1)
    prompt, taken = clock() - start, []
    for step in range(steps + 1):  # the first one makes what steps keep
        start = clock()
        decoding.step([ids[step % len(ids)]])
        taken.append(clock() - start)
    return prompt, float(np.median(taken[1:]))


def _cells(folder: Path, taken: NDArray[np.float64], place: int) -> tuple[str, ...]:
    times, ratios = np.median(taken[:, place], 0), np.median(taken[:, place] / taken[:, 0], 0)
    size = (folder / "model.onnx.data").stat().st_size
    prompt, step = (f"{seconds * 1e3:.1f} ms" for seconds in times)
    return folder.name, prompt, f"{ratios[0]:.2f}", step, f"{ratios[1]:.2f}", f"{size / 1e6:.1f} MB"
