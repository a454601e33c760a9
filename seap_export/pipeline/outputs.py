"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from seap_export.errors import UsageError

__all__ = [
    "make_folders",
    "move_into_place",
    "refuse_foreign_folder",
    "remove_leftovers",
    "scratch_folder",
    "set_aside",
    "write_whole",
]

_TEMPORARY_PREFIX = ".seap-export-tmp-"


@contextmanager
def write_whole(target: Path, *, marker: str | None = None, force: bool = False) -> Iterator[Path]:
    """Gives a temporary path beside `target` to write to, and moves it into place when the block ends well.

    On an error nothing is left behind, and what stood at `target` still stands there. A symbolic link is followed.

    Args:
        target: The file or folder to make.
        marker: None for a file. For a folder, which is created empty, a file that every such folder holds.
        force: Replace what is there: a file, or a folder that holds the marker.

    Raises:
        UsageError: Something is there that must not be replaced.
    """
    _refuse_existing(target, marker, force)
    place = Path(os.path.realpath(target))
    with make_folders(place.parent), scratch_folder(place.parent) as scratch:
        temporary = scratch / place.name
        if marker is not None:
            temporary.mkdir()
        yield temporary
        _refuse_existing(target, marker, force)
        move_into_place(temporary, place)


def _refuse_existing(target: Path, marker: str | None, force: bool) -> None:
    if not target.exists():
        return
    if marker is None and target.is_dir():
        raise UsageError(f"{target} is a folder; give a file as --out")
    if marker is not None:
        refuse_foreign_folder(target, marker)
        if not any(target.iterdir()):
            return
    if not force:
        raise UsageError(f"{target} exists already; use --force to replace it, or another --out")


def refuse_foreign_folder(folder: Path, marker: str) -> None:
    """Refuses a path that is there but is neither an empty folder nor one that holds the marker.

    Raises:
        UsageError: It holds something else.
    """
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a folder as --out")
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".seap-export"))
    if others and marker not in others:
        raise UsageError(f"{folder} holds something else ('{others[0]}'); give an empty or a new folder as --out")


@contextmanager
def make_folders(folder: Path) -> Iterator[None]:
    """Creates the missing folders of a path; those that are still empty when the block ends go again."""
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    try:
        for path in missing:
            path.mkdir(exist_ok=True)
        yield
    finally:
        for path in reversed(missing):
            with suppress(OSError):  # not empty, or never made
                path.rmdir()


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `parent`, gone when the block ends."""
    scratch = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def move_into_place(temporary: Path, target: Path) -> None:
    """Moves what was made in a scratch folder to `target`; what stood there goes with the scratch folder."""
    if temporary.is_dir() and target.exists():
        target.rename(temporary.with_name(f"{target.name}.replaced"))
    temporary.replace(target)


@contextmanager
def set_aside(target: Path, scratch: Path) -> Iterator[None]:
    """Moves what stands at `target`, if anything, into a scratch folder; back again if the block fails."""
    aside = scratch / f"{target.name}.replaced"
    if target.exists():
        target.rename(aside)
    try:
        yield
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes the scratch folders in `folder` that a killed run left."""
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
