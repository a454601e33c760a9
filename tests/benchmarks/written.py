"""What commands write, each as a whole process, and the time and memory that it took.

Imports the standard library alone: a process inherits the peak memory of its parent, so a small one measures.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory


@dataclass(frozen=True)
class Written:
    """The model that it was made from, wall time, and peak resident memory (None: Windows does not keep it)."""

    model: str
    wall_s: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Artifact:
    """The files in `folder`, which has a folder of its own around it, and the command that writes them."""

    name: str
    folder: Path
    command: tuple[str, ...]

    @property
    def record(self) -> Path:
        return self.folder.parent / "written.json"

    def write(self, model: Path) -> Written:
        """Writes it, if it is not there yet; what the command prints goes to stderr.

        Raises:
            RuntimeError: It was made from another model, or the command failed.
        """
        if self.record.is_file():
            written = Written(**json.loads(self.record.read_text("utf-8")))
            if written.model != str(model.resolve()):
                raise RuntimeError(
                    f"{self.record.parent} was made from {written.model}; give another folder as --work"
                )
            return written
        shutil.rmtree(self.folder.parent, ignore_errors=True)  # left behind by a run that was stopped
        self.folder.parent.mkdir(parents=True)
        print(f"writing {self.name}", file=sys.stderr)
        written = Written(str(model.resolve()), *measure(self.command))
        self.record.write_text(json.dumps(asdict(written), indent=1) + "\n", "utf-8", newline="\n")
        return written


def measure(command: Sequence[str]) -> tuple[float, int | None]:
    """Runs a command to its end: wall time in seconds, and peak memory in bytes."""
    words = [sys.executable, "-I", "-S", __file__, *command]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: ended with exit code {done.returncode}; see above")
    wall, peak = json.loads(done.stdout)
    return wall, peak


@contextmanager
def work_folder(work: Path | None) -> Iterator[Path]:
    """The absolute path of the working folder; a temporary folder if none is given."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
        yield work.absolute()
    else:
        with TemporaryDirectory() as scratch:
            yield Path(scratch)


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


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
