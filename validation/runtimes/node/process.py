"""A Node process that answers requests, one line of JSON each."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seap_export.errors import EnvironmentFailure, ParityFailure

__all__ = ["NodeProcess"]

#: What Node says when memory runs out, in its own heap or in WebAssembly's.
_NO_MEMORY = ("heap out of memory", "Array buffer allocation failed", "bad_alloc", "Failed to allocate memory")


class NodeProcess:
    """Runs a script until it is closed.

    Args:
        command: The program, the script and its arguments.

    Raises:
        EnvironmentFailure: The program cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, encoding="utf-8"
            )
        except OSError as error:
            self._log.close()
            raise EnvironmentFailure(f"{command[0]}: cannot be started ({error}); install Node 20 or later") from error

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Sends a request and waits for its answer.

        Raises:
            ParityFailure: The request failed, or the process ended.
            EnvironmentFailure: Memory ran out.
        """
        line, sent = "", json.dumps({"do": do, **values}, default=_text)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(sent + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        answer: dict[str, Any] = json.loads(line) if line else {"error": f"Node ended: {self._said()}"}
        if "error" in answer:
            reason = " ".join(str(answer["error"]).split())
            if any(sign in reason for sign in _NO_MEMORY):
                raise EnvironmentFailure(f"transformers.js has too little memory ({reason:.300}); use a smaller model")
            raise ParityFailure(f"transformers.js does not {do}: {reason:.600}")
        return answer

    def close(self) -> None:
        """Ends the process; once is enough."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.kill()
            self._process.communicate()
        self._log.close()

    def _said(self) -> str:
        """The end of what the process wrote to its log, and how it ended."""
        status = self._process.wait()
        self._log.seek(0)
        return f"{self._log.read()[-500:].decode('utf-8', 'replace')} (exit status {status})"


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not sent")
