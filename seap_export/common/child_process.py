"""A process that answers requests, one line of JSON each; tensors come in a file of little-endian float32 numbers.

What may crash, hang or take all memory runs in one, so that each of these is an error like any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: How much of the end of its log is kept, bytes.
_LOG = 1 << 16
_LAST_CHARACTERS = 500


class ChildEnded(Exception):
    """The process has ended without an answer.

    Attributes:
        reason: Why, in words.
    """

    def __init__(self, log: str, status: int, timeout: float | None = None) -> None:
        super().__init__(f"{' '.join(log[-_LAST_CHARACTERS:].split())} (exit status {status})")
        self.log, self.status = log, status
        self.reason = f"the process failed: {(log.split() and log.strip().splitlines()[-1]) or f'exit code {status}'}"
        if timeout is not None:
            self.reason = f"no answer within {timeout:g} seconds"
        elif status < 0:
            self.reason = f"the process died of {_signal(-status)}"


class ChildProcess:
    """Runs a program until it is closed."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._folder = tempfile.TemporaryDirectory(prefix="seap-tensors-")
        self.file = Path(self._folder.name) / "tensors"
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, encoding="utf-8",
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        except OSError:
            self._log.close()
            self._folder.cleanup()
            raise

    @classmethod
    def of_module(cls, module: str) -> ChildProcess:
        """Runs a module of Python; the current folder is searched for it only if this process searches it."""
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        return cls([sys.executable, "-P", "-m", module], {"PYTHONPATH": path})

    def ask(self, timeout: float | None = None, **request: Any) -> dict[str, Any]:
        """Sends a request, of JSON values and paths, and returns its answer.

        Args:
            timeout: Seconds after which the process is killed; None: it has forever.

        Raises:
            ChildEnded: It has ended, or was killed.
        """
        line, killed = json.dumps(request, default=os.fspath) + "\n", list[float | None]()

        def kill() -> None:
            killed.append(timeout)
            self._process.kill()

        timer = Timer(timeout or 0, kill)
        timer.daemon = True
        if timeout is not None:
            timer.start()
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()
            return self.receive()
        except OSError:
            raise self._ended() from None
        except ChildEnded as ended:
            raise ChildEnded(ended.log, ended.status, *killed) from None
        finally:
            timer.cancel()

    def receive(self) -> dict[str, Any]:
        """Reads the next answer of the process; raises `ChildEnded`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tensor(self, dims: Sequence[int]) -> NDArray[np.float32]:
        """Reads the tensor that the process has written to `file`, float32 of shape `dims`."""
        import numpy as np

        return np.fromfile(self.file, np.dtype("<f4")).astype(np.float32, copy=False).reshape(dims)

    def close(self) -> None:
        """Ends the process and removes its files; once is enough."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.kill()
            self._process.communicate()
        self._folder.cleanup()
        self._log.close()

    def _ended(self) -> ChildEnded:
        status = self._process.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - _LOG))
        return ChildEnded(self._log.read().decode("utf-8", "replace"), status)


def answer_requests(answer: Callable[..., dict[str, Any]]) -> None:
    """Answers the requests to this process until there are no more; what C code prints goes into the log."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(answer(**json.loads(line))) + "\n")
        answers.flush()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
