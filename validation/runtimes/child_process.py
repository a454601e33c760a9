"""A process that answers requests, one line of JSON each; tensors come in a file of float32 numbers."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.runtimes.texts import Conversation, RuntimeTexts

#: How much of the end of its log is kept, bytes.
_LOG = 1 << 16
_LAST_CHARACTERS = 500


class ChildEnded(Exception):
    """The process has ended without an answer."""

    def __init__(self, log: str, status: int) -> None:
        super().__init__(f"{' '.join(log[-_LAST_CHARACTERS:].split())} (exit status {status})")
        self.log, self.status = log, status


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

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request, of JSON values and paths, and returns its answer; raises `ChildEnded`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request, default=os.fspath) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        return self.receive()

    def receive(self) -> dict[str, Any]:
        """Reads the next answer of the process; raises `ChildEnded`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tensor(self, dims: Sequence[int]) -> NDArray[np.float32]:
        """Reads the tensor that the process has written to `file`, float32 of shape `dims`."""
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


class ChildTexts(RuntimeTexts):
    """The texts of a runtime in a process, whose requests are named as the methods here; see `RuntimeTexts`.

    Args:
        ask: Sends a request by its name, with values, and returns the answer; its errors are raised.
        close: Ends the process.
    """

    def __init__(self, ask: Callable[..., Any], close: Callable[[], None]) -> None:
        self._ask, self._close = ask, close

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        return list(map(int, self._ask("encode", text=text, special=special)))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._ask("decode", ids=list(ids)))

    def render(self, conversation: Conversation) -> str:
        talk = {"messages": list(conversation.messages), "tools": list(conversation.tools)}
        return str(self._ask("render", prompts=conversation.prompts, **talk))

    def close(self) -> None:
        self._close()
