"""Peak memory of one model, measured in a separate process that loads it and runs a prompt and some steps.

python -m validation.speed.memory onnxruntime FOLDER --context-length 2048 --depth 512
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from seap_export.errors import ArtifactError
from seap_export.memory import peak_memory as own_peak
from validation.speed.engines import EngineName, open_engine
from validation.speed.measure import Cell

__all__ = ["peak_memory"]

_STEPS = 4


def peak_memory(
    engine: EngineName, folder: Path, context_length: int, provider: str, threads: int, cell: Cell
) -> int | None:
    """Peak resident bytes of a process that runs one model, the interpreter and its libraries included.

    None where the system does not report it.

    Raises:
        ArtifactError: The process failed.
    """
    options = {
        "--context-length": context_length,
        "--provider": provider,
        "--threads": threads,
        "--batch": cell.batch,
        "--depth": cell.depth,
    }
    command = [sys.executable, "-m", __name__, engine, str(folder)]
    command += [str(word) for pair in options.items() for word in pair]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ArtifactError(f"{folder}: the process that measures its memory failed: {reason}")
    peak: int | None = json.loads(done.stdout)["peak_bytes"]
    return peak


@click.command()
@click.argument("engine")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--context-length", type=int, required=True)
@click.option("--provider", default="cpu")
@click.option("--threads", type=int, default=1)
@click.option("--batch", type=int, default=1)
@click.option("--depth", type=int, default=128)
def _main(engine: Any, folder: Path, context_length: int, provider: str, threads: int, batch: int, depth: int) -> None:
    """Print the peak memory of running the model in FOLDER."""
    with open_engine(engine, folder, context_length, provider, threads) as model:
        model.prefill([[5] * depth] * batch, _STEPS)
        for _ in range(_STEPS):
            model.step()
    click.echo(json.dumps({"peak_bytes": own_peak()}))


if __name__ == "__main__":
    _main()
