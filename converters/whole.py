"""Leaves the whole model in a folder that a format is written into, or, after a failure, nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seap_export.errors import EnvironmentFailure, UsageError


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Empties a folder if the block fails: an incomplete model is worse than none."""
    try:
        present = min(folder.iterdir(), default=None)
        if present is not None:
            raise UsageError(f"{present} already exists; give another folder or remove it")
        try:
            yield
        except BaseException:
            _empty(folder)
            raise
    except OSError as error:
        raise EnvironmentFailure(
            f"{folder}: cannot write the model ({error}); free disk space or check the permissions"
        ) from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
