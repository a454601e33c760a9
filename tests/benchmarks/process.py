"""Measures a command as a whole process, with the operating system's accounting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ProcessFigures:
    """Wall time in seconds and peak resident memory in bytes of one finished command.

    The memory is None on Windows, which does not keep this figure for a finished process.
    """

    wall_s: float
    peak_bytes: int | None


def measure(command: Sequence[str]) -> ProcessFigures:
    """Runs a command to its end; what it prints goes to stderr.

    A process inherits the peak memory of its parent, so a small process starts and measures the command.

    Raises:
        RuntimeError: It failed.
    """
    words = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with exit code {done.returncode}; see above")
    return ProcessFigures(*json.loads(done.stdout))


def _main(command: Sequence[str]) -> int:
    """Prints wall time and peak memory of a command as JSON, and returns its exit code."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    peak = None
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # Linux counts in KiB
    else:
        process.wait()
    print(json.dumps([time.perf_counter() - begin, peak]))
    return process.returncode


def megabytes(peak_bytes: int | None) -> str:
    """A peak memory as a cell of a table."""
    return "not measured" if peak_bytes is None else f"{peak_bytes / 1e6:.0f} MB"


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
