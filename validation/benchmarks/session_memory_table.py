"""A table of the memory that ONNX Runtime's sessions take on the CPU, next to what is said before they are opened.

    python -m validation.benchmarks.session_memory_table ONNX_FOLDER... [--tokens 512] [--mapped]

Each session runs in a process of its own, which imports what it needs before it looks at its memory: a prompt of the
given length, then decode steps.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import click
import numpy as np

from seap_export.memory import peak_memory
from seap_export.runtime.session import open_session
from validation.runners.onnx_runner import OnnxRunner
from validation.session_memory import Calls, session_memory

__all__: list[str] = []

_STEPS = 8
_HEADER = "| graph | tokens | estimated | measured | opening | prompt | step |\n" + "| --- " * 7 + "|"


@click.command()
@click.argument("folders", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--tokens", type=int, multiple=True, default=(512,), show_default=True)
@click.option("--mapped", is_flag=True, help="Without copies of the weights.")
@click.option("--alone", is_flag=True, hidden=True)
def session_memory_table(folders: tuple[Path, ...], tokens: tuple[int, ...], mapped: bool, alone: bool) -> None:
    """Print the table for the graphs in FOLDERS."""
    if alone:
        click.echo(json.dumps(_measure(folders[0] / "model.onnx", tokens[0], mapped)))
        return
    click.echo(_HEADER)
    for folder in folders:
        for number in tokens:
            words = [sys.executable, "-m", __spec__.name, str(folder), "--tokens", str(number), "--alone"]
            done = subprocess.run([*words, *["--mapped"] * mapped], stdout=subprocess.PIPE, text=True, check=True)
            taken, opening, prompt, step = json.loads(done.stdout)
            need = session_memory(folder / "model.onnx", [_calls(number)])
            said = need.without_copies if mapped else need.total
            sizes = f"{said / 1e6:.0f} MB | {taken / 1e6:.0f} MB"
            click.echo(
                f"| {folder.name} | {number} | {sizes} | {opening:.1f} s | {prompt:.1f} s | {1e3 * step:.0f} ms |"
            )


def _calls(tokens: int) -> Calls:
    return Calls(1, tokens, tokens + _STEPS)


def _measure(model: Path, tokens: int, mapped: bool) -> tuple[int, float, float, float]:
    """Bytes at the peak beyond those before, and the seconds of opening, of the prompt and of a step."""
    before, times = peak_memory() or 0, [time.perf_counter()]
    runner = OnnxRunner(open_session(model, mapped=mapped))
    times.append(time.perf_counter())
    runner.prefill(np.arange(tokens)[None] % 200 + 5, [tokens], _STEPS)
    times.append(time.perf_counter())
    for _ in range(_STEPS):
        runner.step([7])
        times.append(time.perf_counter())
    opening, prompt, *steps = np.diff(times).tolist()
    return (peak_memory() or 0) - before, opening, prompt, median(steps)


if __name__ == "__main__":
    session_memory_table()
