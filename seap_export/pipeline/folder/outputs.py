"""Writes files and folders atomically: they appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from seap_export.common import durable
from seap_export.common.checksums import SUMS
from seap_export.common.durable import JOURNAL
from seap_export.errors import EnvironmentFailure, SeapError, UsageError
from seap_export.pipeline.folder.names import HF, PLAN

LOCK = ".seap-export.lock"
_MANIFEST = "manifest.json"
#: Beside the variants of an export lie these, and reports, which may be replaced.
_OF_AN_EXPORT = (_MANIFEST, "performance.json", "frontier.json", "whole.json", LOCK)
_TEMPORARY_PREFIX = ".seap-export-tmp-"
_UNFINISHED_PREFIX = ".seap-export-unfinished-"
_WRITER_LOCK = ".seap-export-writer.lock"
#: What lies in an unfinished folder beside the result.
_OWN_FILES = frozenset({_WRITER_LOCK, JOURNAL})
#: How long a process waits for another one that still writes to the same place, in seconds.
_PATIENCE = 60.0


@contextmanager
def write_whole(target: Path, *, marker: str | None = None, force: bool = False) -> Iterator[Path]:
    """Yields a temporary path next to `target`, and moves it into place if the block succeeds.

    On an error nothing is left behind, and `target` stays as it was. A symbolic link is followed.

    Args:
        marker: None for a file. For a folder, which is created empty, the name of a file that every such folder has.
        force: Replace an existing file, or a folder that contains the marker.
    """
    _refuse_existing(target, marker, force)
    real = Path(os.path.realpath(target))
    with make_folders(real.parent), scratch_folder(real.parent) as scratch:
        temporary = scratch / real.name
        if marker is not None:
            temporary.mkdir()
        yield temporary
        _refuse_existing(target, marker, force)
        move_into_place(temporary, real)


@contextmanager
def write_report(target: Path, *, force: bool) -> Iterator[Path]:
    """Like `write_whole`, for a file that a user names; a file that belongs to an export is not replaced.

    Raises:
        UsageError: `target` exists and must not be replaced.
    """
    refuse_part_of_export(target)
    with write_whole(target, force=force) as temporary:
        yield temporary


def refuse_part_of_export(target: Path) -> None:
    """Refuses a file within an export, or within a variant that was copied alone, but for reports beside variants.

    What lies there is replaced by nothing, and a further file would not be in the list of those that were checked.
    """
    real = Path(os.path.realpath(target))
    for folder in real.parents:
        is_export = (folder / _MANIFEST).is_file() and ((folder / LOCK).exists() or _is_manifest(folder))
        is_report = real.parent == folder and real.name not in _OF_AN_EXPORT
        is_variant = (folder / PLAN).is_file() and (folder / HF).is_dir()
        is_model = real.parent == folder and real.is_file() and (folder / "tokenizer.json").is_file()
        if (is_export and not is_report) or is_variant or is_model or (folder / SUMS).is_file():
            raise UsageError(f"{target} is a file of the model or export in {folder}; give a path outside it")


def _is_manifest(folder: Path) -> bool:
    with (folder / _MANIFEST).open("rb") as file:
        return b"seap-export/manifest" in file.read(200)


def _refuse_existing(target: Path, marker: str | None, force: bool) -> None:
    if not target.exists():
        _refuse_file_above(target)
        return
    if marker is None and target.is_dir():
        raise UsageError(f"{target} is a folder; give the path of a file")
    if marker is not None:
        refuse_foreign_folder(target, marker)
        if not any(target.iterdir()):
            return
    if not force:
        raise UsageError(f"{target} already exists; use --force to replace it, or give another path")


def refuse_foreign_folder(folder: Path, marker: str) -> None:
    """Rejects an existing path that is neither an empty folder nor one with the marker."""
    if not os.path.lexists(folder):
        _refuse_file_above(folder)
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder; give a folder as --out")
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".seap-export"))
    if others and marker not in others:
        raise UsageError(f"{folder} is not empty (it contains '{others[0]}'); give an empty or a new folder as --out")


def _refuse_file_above(path: Path) -> None:
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise UsageError(f"{above} is not a folder, so {path} cannot be made; give another --out")


@contextmanager
def make_folders(folder: Path) -> Iterator[None]:
    """Creates the missing folders of a path; those that are empty when the block ends are removed again."""
    missing = [path for path in (*reversed(folder.parents), folder) if not path.exists()]
    try:
        for path in missing:
            path.mkdir(exist_ok=True)
            durable.sync_folder(path.parent)
        yield
    finally:
        for path in reversed(missing):
            with suppress(OSError):  # it is not empty, or was never created
                path.rmdir()


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `parent`, removed when the block ends."""
    scratch = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=parent))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def unfinished_folder(parent: Path, key: str) -> Iterator[Path]:
    """A folder that the next run with the same key finds again if this one is interrupted or the machine fails.

    It is removed when the block succeeds, when it holds no file, and when the inputs are at fault: another try would
    fail alike.
    """
    unfinished = parent / f"{_UNFINISHED_PREFIX}{key[:16]}"
    unfinished.mkdir(exist_ok=True)
    try:
        yield unfinished
    except BaseException as error:
        is_of_no_use = isinstance(error, SeapError) and not isinstance(error, EnvironmentFailure)
        if is_of_no_use or not any(path.is_file() and path.name not in _OWN_FILES for path in unfinished.rglob("*")):
            shutil.rmtree(unfinished, ignore_errors=True)
        raise
    shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Waits until no other process writes to a temporary path, and keeps others out.

    A worker whose driver was killed, or that was given up as lost, may still be writing.

    Args:
        path: A path in a folder of `scratch_folder` or `unfinished_folder`.
    """
    try:
        lock = FileLock(path.with_name(_WRITER_LOCK)).acquire(timeout=_PATIENCE)
    except Timeout as error:
        raise EnvironmentFailure(
            f"another process still writes to {path}; end it, then run the same command again to continue"
        ) from error
    with lock:
        yield


def go_on(path: Path, made_with: Mapping[str, object]) -> str | None:
    """Prepares a path of `unfinished_folder`, held `alone`; see `durable.begin_or_resume`."""
    return durable.begin_or_resume(path.parent, made_with, _OWN_FILES)


def remove_unfinished(folder: Path) -> None:
    """Removes the folders that were kept for a run with the same inputs."""
    for path in folder.glob(f"{_UNFINISHED_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def move_into_place(temporary: Path, target: Path) -> None:
    """Moves a result from a scratch folder to `target`; the previous content is removed with the scratch folder."""
    if temporary.is_dir() and target.exists():
        target.rename(temporary.with_name(f"{target.name}.replaced"))
    durable.replace(temporary, target)


@contextmanager
def set_aside(target: Path, scratch: Path) -> Iterator[None]:
    """Moves the content of `target`, if any, into a scratch folder, and back if the block fails."""
    aside = scratch / f"{target.name}.replaced"
    if target.exists():
        target.rename(aside)
        durable.sync_folder(target.parent)
    try:
        yield
    except BaseException:
        if aside.exists():
            aside.rename(target)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes the scratch folders that an interrupted run left in `folder`."""
    for path in folder.glob(f"{_TEMPORARY_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
