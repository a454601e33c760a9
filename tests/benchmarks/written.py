"""What commands write, each as a whole process, and the time and memory that it took."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

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


@dataclass(frozen=True)
class Written:
    """The model that it was made from, wall time, and peak resident memory."""

    model: str
    wall_s: float
    peak_bytes: int


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
        words = [sys.executable, "-I", "-S", "-c", _MEASURE, *self.command]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(self.command)}: ended with exit code {done.returncode}; see above")
        written = Written(str(model.resolve()), *json.loads(done.stdout))
        self.record.write_text(json.dumps(asdict(written), indent=1) + "\n", "utf-8", newline="\n")
        return written


@contextmanager
def work_folder(work: Path | None) -> Iterator[Path]:
    """The absolute path of the working folder; a temporary folder if none is given."""
    if work:
        work.mkdir(parents=True, exist_ok=True)
        yield work.absolute()
    else:
        with TemporaryDirectory() as scratch:
            yield Path(scratch)
