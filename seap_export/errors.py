"""The errors a user can meet, each with its documented exit code.

Every error message is one line that says what is wrong and how to mend it. Code raises the class that
fits; only the command line turns it into an exit status.
"""

from __future__ import annotations

__all__ = [
    "ArtifactError",
    "EnvironmentFailure",
    "InputError",
    "ParityFailure",
    "QualityFailure",
    "SeapError",
    "UsageError",
]


class SeapError(Exception):
    """Base of all errors that are reported as one line and an exit code (1: internal)."""

    exit_code = 1


class UsageError(SeapError):
    """Options that contradict each other or would overwrite something (exit code 2)."""

    exit_code = 2


class ParityFailure(SeapError):
    """An ONNX file does not compute what its model computes (exit code 3)."""

    exit_code = 3


class QualityFailure(SeapError):
    """A variant is further from the dense model than its quality gate allows (exit code 4)."""

    exit_code = 4


class EnvironmentFailure(SeapError):
    """An execution provider, a library or the disk is not what the job needs (exit code 6)."""

    exit_code = 6


class ArtifactError(SeapError):
    """An artifact is damaged, incomplete or differs from its manifest (exit code 7)."""

    exit_code = 7


class InputError(SeapError):
    """A model or a corpus that cannot be used (exit code 8)."""

    exit_code = 8
