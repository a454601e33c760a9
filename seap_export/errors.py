"""The errors a user can meet, each with its documented exit code.

An error message is one line: what is wrong, then how to fix it. Only the command line turns an error into an exit
status.
"""

from __future__ import annotations

import os
from pathlib import Path

#: So many threads a machine of few cores may have, whatever for.
_MOST_THREADS = 64


class SeapError(Exception):
    """Base of all errors that are reported as one line and an exit code (1: internal)."""

    exit_code = 1


class UsageError(SeapError):
    """Options contradict each other or would overwrite something (exit code 2)."""

    exit_code = 2


class ParityFailure(SeapError):
    """An ONNX file does not compute what its PyTorch model computes (exit code 3)."""

    exit_code = 3


class QualityFailure(SeapError):
    """A variant differs from the dense model by more than the quality gate or the target allows (exit code 4)."""

    exit_code = 4


class SpeedFailure(SeapError):
    """A variant is slower than the target that was asked for (exit code 5)."""

    exit_code = 5


class EnvironmentFailure(SeapError):
    """The machine lacks what the job needs: an execution provider, a library, memory or disk space (exit code 6)."""

    exit_code = 6


class ArtifactError(SeapError):
    """An artifact is damaged, incomplete or different from its manifest (exit code 7)."""

    exit_code = 7


class InputError(SeapError):
    """A model or a corpus cannot be used (exit code 8)."""

    exit_code = 8


class MissingInput(UsageError, InputError):
    """No file can be opened at the path of a model or a corpus (exit code 2, as of every path)."""


def in_one_line(error: Exception) -> str:
    """The message of a library's error in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]


def refuse_less(least: int, **options: int | None) -> None:
    """Raises `UsageError` if the value of an option is below the least one; options that are None are not given."""
    for name, value in options.items():
        if value is not None and value < least:
            raise UsageError(f"--{name.replace('_', '-')} {value} is out of range; give at least {least}")


def refuse_threads(threads: int | None) -> None:
    """Raises `UsageError` for no thread, and for many times as many as this machine has cores, which only wait."""
    refuse_less(1, threads=threads)
    cores = os.cpu_count() or 1
    if threads is not None and threads > max(_MOST_THREADS, 4 * cores):
        raise UsageError(
            f"--threads {threads} is out of range; this machine has {cores} cores, and more threads are slower"
        )


def refuse_missing(path: Path) -> None:
    """Refuses a path at which there is nothing, with a `UsageError` in the words of every command and function."""
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder; check the path")
