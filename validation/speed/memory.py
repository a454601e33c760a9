"""Peak memory of one model, measured in a separate process that loads it and runs a prompt and some steps.

python -m validation.speed.memory onnxruntime FOLDER --context-length 2048 --depth 512
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from seap_export.common.memory import children_peak
from seap_export.common.memory import peak_memory as process_peak
from seap_export.errors import ArtifactError, EnvironmentFailure, SeapError
from seap_export.runtime.providers import free_device_memory
from validation.execution import Execution
from validation.speed.engines import EngineName, open_engine
from validation.speed.measure import SpeedCell

_STEPS = 4


@dataclass(frozen=True)
class PeakMemory:
    """Peak memory of a process that runs one model.

    Attributes:
        host: Peak resident bytes, the interpreter and its libraries included, of the largest process if the runtime
            has one of its own; None where the system does not report it.
        gpu: Bytes that it takes of the GPU's memory beside CUDA's own context: weights, caches and all buffers, which
            ONNX Runtime keeps until the session ends. None on the CPU, and where the driver does not report it.
    """

    host: int | None
    gpu: int | None


def peak_memory(
    engine: EngineName, folder: Path, context_length: int, execution: Execution, cell: SpeedCell
) -> PeakMemory:
    """Measures the memory of running one model.

    The GPU's is the difference of its free memory, so that nothing else may start or end on it meanwhile.

    Raises:
        ArtifactError: The process failed.
        EnvironmentFailure: The process failed because of the machine.
    """
    options = {
        "--context-length": context_length,
        "--provider": execution.provider,
        "--threads": execution.thread_count,
        "--batch": cell.batch,
        "--depth": cell.depth,
    }
    command = [sys.executable, "-m", __name__, engine, str(folder)]
    command += [str(word) for pair in options.items() for word in pair]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        is_environment = done.returncode == EnvironmentFailure.exit_code
        kind = EnvironmentFailure if is_environment else ArtifactError
        raise kind(f"{folder}: the process that measures its memory failed: {reason}")
    return PeakMemory(**json.loads(done.stdout))


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
    uses_provider = engine == "onnxruntime"
    before = free_device_memory(provider) if uses_provider else None
    try:
        with open_engine(engine, folder, context_length, Execution(provider, threads)) as model:
            model.pace([[5] * depth] * batch, min(_STEPS, context_length - depth))
            after = free_device_memory(provider) if uses_provider else None
    except SeapError as error:
        click.echo(error, err=True)
        sys.exit(error.exit_code)
    taken = None if before is None or after is None else before - after
    peaks = [peak for peak in (process_peak(), children_peak()) if peak is not None]
    click.echo(json.dumps(asdict(PeakMemory(max(peaks, default=None), taken))))


if __name__ == "__main__":
    _main()
