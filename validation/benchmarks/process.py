"""Measuring a command as a whole process, by the operating system's own accounting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ProcessFigures", "measure"]


@dataclass(frozen=True)
class ProcessFigures:
    """Wall time in seconds and peak resident memory in bytes of one finished command."""

    wall_s: float
    peak_bytes: int


def measure(command: Sequence[str]) -> ProcessFigures:
    """Runs a command to its end; what it prints goes to stderr.

    A process counts the memory of the one that starts it as its own, so a small one starts and measures the command.

    Raises:
        RuntimeError: It failed.
    """
    words = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: ended with exit code {done.returncode}; see above")
    return ProcessFigures(*json.loads(done.stdout))


def _main(command: Sequence[str]) -> int:
    """Prints wall time and peak memory of a command, as JSON, and gives its exit code."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    scale = 1 if sys.platform == "darwin" else 1024  # Linux counts ru_maxrss in KiB
    print(json.dumps([wall, usage.ru_maxrss * scale]))
    return process.returncode


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
