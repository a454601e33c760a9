"""Runs a command to its end, with a log, a limit and a clean stop."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from threading import Event
from typing import IO

from validation.readiness.step import Command, Done

#: Seconds that a stopped command has to clean up.
_PATIENCE = 30.0
#: Seconds after which a wait looks whether the run is to stop. A signal handler that raised could do so between the
#: start of a process and the moment at which it is known.
_GLANCE = 0.2


def run_command(command: Command, log: Path, limit: float, stop: Event, patience: float = _PATIENCE) -> Done:
    """Runs it in a session of its own, so that a Ctrl-C reaches it once and nothing of it is left behind.

    Args:
        command: The command.
        log: File that its output is appended to.
        limit: Seconds after which it is stopped.
        stop: Set when the run is to stop.
        patience: Seconds that it has to end after that.

    Returns:
        The exit code; None if the program is missing or the limit was reached, for which the log has the reason.

    Raises:
        KeyboardInterrupt: The run was interrupted; the command has ended.
    """
    begin = time.monotonic()
    with log.open("ab") as file:
        file.write(f"$ {command.line}\n".encode())
        file.flush()
        try:
            code = _run(command, file, limit, stop, patience)
        except OSError as error:  # no such program
            file.write(f"Error: {command.words[0]} cannot be started: {error.strerror}\n".encode())
            code = None
        except subprocess.TimeoutExpired:
            file.write(f"Error: it did not end within {limit:g} seconds\n".encode())
            code = None
        seconds = time.monotonic() - begin
        file.write(f"({words_of_exit(code)}, {seconds:.1f} s)\n\n".encode())
    return Done(command.line, code, seconds)


def words_of_exit(code: int | None) -> str:
    """An exit code in words."""
    if code is None:
        return "not started or stopped"
    if code < 0:
        return f"died of {signal.Signals(-code).name}"
    return f"exit code {code}"


def _run(command: Command, log: IO[bytes], limit: float, stop: Event, patience: float) -> int:
    target = command.saves.open("wb") if command.saves else log
    try:
        process = subprocess.Popen(
            command.words,
            stdin=subprocess.DEVNULL,
            stdout=target,
            stderr=log,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )
        try:
            return _wait(process, limit, stop)
        except BaseException as error:
            _stop(process, signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM, patience)
            raise
    finally:
        if target is not log:
            target.close()


def _wait(process: subprocess.Popen[bytes], limit: float, stop: Event) -> int:
    end = time.monotonic() + limit
    while True:
        if stop.is_set():
            raise KeyboardInterrupt
        left = end - time.monotonic()
        try:
            return process.wait(min(_GLANCE, max(left, 0.0)))
        except subprocess.TimeoutExpired:
            if left <= 0:
                raise


def _stop(process: subprocess.Popen[bytes], kind: signal.Signals, patience: float) -> None:
    os.killpg(process.pid, kind)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
