"""Runs checks in separate processes, so that a crash or a hang is a result, too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class IsolatedResult:
    """The result of a check."""

    value: dict[str, Any] = field(default_factory=dict)
    failure: str = ""


def ask(module: str, arguments: Sequence[str], timeout: float) -> IsolatedResult:
    """Runs `python -m module arguments`, which prints a JSON object as its last line."""
    # -P and the same path: the current folder is searched only if this process searches it.
    command = [sys.executable, "-P", "-m", module, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return IsolatedResult(failure=f"no answer within {timeout:g} seconds")
    except OSError as error:
        return IsolatedResult(failure=f"no process could be started ({error.strerror})")
    if done.returncode < 0:
        return IsolatedResult(failure=f"the process died of {_signal(-done.returncode)}")
    if done.returncode:
        reason = _last_line(done.stderr) or f"exit code {done.returncode}"
        return IsolatedResult(failure=f"the process failed: {reason}")
    try:
        value = json.loads(_last_line(done.stdout))
    except ValueError:
        value = None
    return IsolatedResult(value) if isinstance(value, dict) else IsolatedResult(failure="the process gave no answer")


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
