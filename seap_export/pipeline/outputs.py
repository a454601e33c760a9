"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seap_export.errors import UsageError

__all__ = ["TEMPORARY_PREFIX", "remove_leftovers", "write_whole"]

TEMPORARY_PREFIX = ".seap-export-tmp-"


@contextmanager
def write_whole(target: Path, *, folder: bool, force: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `target` to write to, and moves it into place when the block ends well.

    On an error nothing is left behind, and what stood at `target` still stands there.

    Args:
        target: The file or folder to make.
        folder: Whether it is a folder; it is created empty.
        force: Replace what is there.

    Raises:
        UsageError: Something is there already and `force` is not set.
    """
    if not force:
        _refuse_existing(target)
    made = _make_parents(target.parent)
    scratch = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=target.parent))
    try:
        temporary = scratch / target.name
        if folder:
            temporary.mkdir()
        yield temporary
        if not force:
            _refuse_existing(target)
        if target.exists():
            target.rename(scratch / "replaced")
        temporary.rename(target)
        made = []
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in reversed(made):
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()


def _refuse_existing(target: Path) -> None:
    if target.is_symlink() or target.exists():
        raise UsageError(f"{target} exists already; use --force to replace it, or another --out")


def _make_parents(folder: Path) -> list[Path]:
    """Creates the missing folders, outermost first, and says which they were."""
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    for path in missing:
        path.mkdir(exist_ok=True)
    return missing


def remove_leftovers(folder: Path) -> None:
    """Removes what an interrupted run left: temporary folders in `folder` and one level below."""
    for pattern in (f"{TEMPORARY_PREFIX}*", f"*/{TEMPORARY_PREFIX}*"):
        for path in folder.glob(pattern):
            if path.is_dir() and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)
