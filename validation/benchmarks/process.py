"""Measuring a command as a whole process, by the operating system's own accounting."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["ProcessFigures", "interleaved", "measure"]


@dataclass(frozen=True)
class ProcessFigures:
    """Wall time in seconds and peak resident memory in bytes of one finished command."""

    wall_s: float
    peak_bytes: int


def measure(command: Sequence[str]) -> ProcessFigures:
    """Runs a command to its end; what it prints goes to stderr.

    Raises:
        RuntimeError: It failed.
    """
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with exit code {process.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024  # Linux counts ru_maxrss in KiB
    return ProcessFigures(wall, usage.ru_maxrss * scale)


def interleaved(
    commands: dict[str, Callable[[], ProcessFigures]], runs: int, warm_up: int = 1
) -> dict[str, ProcessFigures]:
    """Runs every command in turn, several times over, and gives the medians of the counted runs."""
    seen: dict[str, list[ProcessFigures]] = {name: [] for name in commands}
    for run in range(warm_up + runs):
        for name, command in commands.items():
            figures = command()
            if run >= warm_up:
                seen[name].append(figures)
    return {
        name: ProcessFigures(
            statistics.median(f.wall_s for f in all_figures),
            int(statistics.median(f.peak_bytes for f in all_figures)),
        )
        for name, all_figures in seen.items()
    }
