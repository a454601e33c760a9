"""Turns any exception into one line and an exit code."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import click

from seap_export.errors import InputError, SeapError

_FULL = "the disk is full; free some space and run the same command again to continue"
_OS_ERRORS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again to continue",
    errno.EFBIG: "larger than the file system or 'ulimit -f' allows; raise the limit, or choose another folder",
    errno.ENOENT: "no such file or folder; check the path",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "permission denied; choose another folder, or change its permissions",
    errno.EPERM: "not permitted; choose another folder, or change its permissions",
}
_ENVIRONMENT, _INTERRUPTED = 6, 130


class Failure(click.ClickException):
    """A message and the exit code that goes with it, and what was found, for --json."""

    def __init__(self, message: str, exit_code: int, report: Any = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # a class variable in click's eyes
        self.report = report


def is_panic(error: BaseException) -> bool:
    """Whether the tokenizers library has panicked, which is not raised as an `Exception`."""
    return type(error).__name__ == "PanicException"


def _os_message(error: OSError, text: str) -> str:
    """The line for an error of the operating system."""
    problem = _OS_ERRORS.get(error.errno or 0, error.strerror or text)
    if not error.filename:
        return problem
    folder = Path(os.fsdecode(error.filename)).parent
    if error.errno == errno.ENOENT and folder.is_dir() and not shutil.disk_usage(folder).total:
        return f"{folder} is not on a disk; choose another folder"
    return f"{error.filename}: {problem}"


def as_click_error(error: BaseException) -> click.ClickException:
    """The line that a user sees for an exception, and the exit code."""
    if isinstance(error, SeapError):
        return Failure(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return Failure("interrupted; run the same command again to continue", _INTERRUPTED)
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno is not None:
        return Failure(_os_message(error, text), _ENVIRONMENT)
    if "No space left on device" in text:  # safetensors and others report a failed write in words only
        return Failure(_FULL, _ENVIRONMENT)
    if isinstance(error, MemoryError) or "allocate memory" in text:  # torch raises a RuntimeError
        remedy = "close other programs, or lower batch_tokens (evaluate: --batch-size)"
        return Failure(f"out of memory; {remedy}", _ENVIRONMENT)
    if isinstance(error, ImportError):
        remedy = "install seap-export again with its dependencies"
        return Failure(f"a library is missing or broken: {text}; {remedy}", _ENVIRONMENT)
    # The tokenizers library raises a bare Exception for a text that it cannot encode.
    if type(error) is Exception or is_panic(error):
        return Failure(f"the model's tokenizer does not work ({text}); download the model again", InputError.exit_code)
    hint = "set SEAP_EXPORT_TRACEBACK=1 to see the traceback, and report it"
    return Failure(f"internal error: {type(error).__name__}: {text}; {hint}", SeapError.exit_code)
