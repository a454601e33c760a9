"""`seap-export`, and other programs, as processes of their own that start at once, may be limited and may be killed.

They are forks of one that has imported everything. What is said before or while that is imported, and what is not to
be imported at all, needs a process that begins with nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.exports import Outcome
from support.needs import NAMESPACE, find

__all__ = ["MAIN", "Run", "Tool"]

ROOT = Path(__file__).parents[3]
Variables = Mapping[str, str]
#: The command line.
MAIN = "from seap_export.cli import main; main()"


@dataclass(frozen=True)
class Run:
    """A run that goes on; `process` is its id."""

    tool: Tool
    process: int
    out: Path
    err: Path

    def wait(self, timeout: float = 60) -> Outcome:
        """Waits for its end; after the timeout it is killed."""
        code = self.tool.ask("wait", process=self.process, timeout=timeout)
        # a run that was killed at once has not made its files
        texts = [path.read_text("utf-8") if path.exists() else "" for path in (self.out, self.err)]
        return Outcome(code, *texts)


class Tool:
    """A server that forks a process for every run (`warm_server.py`), which ends as one of its own would.

    A run has the variables that the test has, sees one core and reads nothing. Where the machine allows it
    (`needs("mount")`), `shell` can mount file systems that the runs see.
    """

    def __init__(self, folder: Path) -> None:
        """Starts it; `folder` receives what the runs print."""
        self._folder = folder
        self._runs = 0
        command = [sys.executable, "-P", str(Path(__file__).with_name("warm_server.py"))]
        command, pipe = [*(NAMESPACE if find("mount") else ()), *command], subprocess.PIPE
        self._server = subprocess.Popen(command, env=self._variables(), stdin=pipe, stdout=pipe, text=True)
        assert self._answer() == "ready"

    def close(self) -> None:
        self._server.communicate()

    def start(
        self, cwd: Path, *arguments: object, program: str = MAIN, environment: Variables | None = None, **options: Any
    ) -> Run:
        """Starts a run, with more variables; the options are those of `warm_server.start`."""
        self._runs += 1
        out, err = (self._folder / f"{self._runs}.{name}" for name in ("out", "err"))
        files = {"cwd": str(cwd), "out": str(out), "err": str(err)}
        given, variables = [str(argument) for argument in arguments], {**self._variables(), **(environment or {})}
        process = self.ask("start", program=program, arguments=given, environment=variables, **files, **options)
        return Run(self, process, out, err)

    def __call__(self, cwd: Path, *arguments: object, timeout: float = 60, **options: Any) -> Outcome:
        return self.start(cwd, *arguments, **options).wait(timeout)

    def shell(self, *command: object) -> None:
        """Runs another command where the mounts of the runs are seen."""
        failure = self.ask("shell", command=[str(part) for part in command])
        assert not failure, failure

    def ask(self, operation: str, **request: Any) -> Any:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"operation": operation, **request}) + "\n")
        self._server.stdin.flush()
        return self._answer()

    def _variables(self) -> dict[str, str]:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

    def _answer(self) -> Any:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)
