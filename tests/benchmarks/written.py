"""What commands write, each as a whole process, and the time and memory that it took."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

#: Runs a command, and prints its wall time and peak memory; a process inherits the peak of its parent, so a small one
#: measures.
_MEASURE = """
import json, os, subprocess, sys, time
begin = time.perf_counter()
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], stdout=sys.stderr).pid, 0)
peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # Linux counts in KiB
print(json.dumps([time.perf_counter() - begin, peak]))
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """Wall time, and peak resident memory."""

    wall_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Artifact:
    """The files in `folder`, and the command that writes them."""

    name: str
    folder: Path
    command: tuple[str, ...]

    def write(self) -> Cost:
        """What the command prints goes to stderr.

        Raises:
            RuntimeError: The command failed.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        print(f"writing {self.name}", file=sys.stderr)
        words = [sys.executable, "-I", "-S", "-c", _MEASURE, *self.command]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise RuntimeError(f"{' '.join(self.command)}: ended with exit code {done.returncode}; see above")
        return Cost(*json.loads(done.stdout))
