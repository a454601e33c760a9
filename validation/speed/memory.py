"""Measures the peak memory of one model in a separate process, which loads it, runs a prompt and some steps.

python -m validation.speed.memory onnxruntime FOLDER --context-length 2048 --depth 512
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from seap_export.errors import ArtifactError
from validation.speed.engines import EngineName, open_engine
from validation.speed.measure import Cell

__all__ = ["own_peak", "peak_memory", "reset_own_peak"]

_STEPS = 4


def peak_memory(engine: EngineName, folder: Path, context_length: int, provider: str, threads: int, cell: Cell) -> int:
    """Peak resident bytes of a process that runs one model, including the interpreter and its libraries.

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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ArtifactError(f"{folder}: the process that measures its memory failed: {reason}")
    return int(json.loads(done.stdout)["peak_bytes"])


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


def own_peak() -> int | None:
    """Peak resident bytes of this process; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's ru_maxrss counts the process that started this one, too
        line = next((line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM")), None)
        return None if line is None else int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def reset_own_peak() -> None:
    """Starts a new peak, where the system can; elsewhere `own_peak` stays that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "utf-8")


if __name__ == "__main__":
    _main()
