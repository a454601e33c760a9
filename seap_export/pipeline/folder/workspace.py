"""An output folder: one writer at a time, finished steps are reused, and nothing is overwritten without --force."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from seap_export.common.hashing import sha256_json
from seap_export.errors import ArtifactError, UsageError
from seap_export.pipeline.folder.keys import differing
from seap_export.pipeline.folder.manifest import MANIFEST, read_manifest
from seap_export.pipeline.folder.outputs import (
    LOCK,
    make_folders,
    move_into_place,
    refuse_foreign_folder,
    remove_leftovers,
    remove_unfinished,
    scratch_folder,
    set_aside,
    unfinished_folder,
)


class Workspace:
    """The folder given as --out.

    Args:
        folder: The folder; it need not exist.
    """

    def __init__(self, folder: Path, force: bool) -> None:
        """Raises `UsageError` if the folder holds something other than an export."""
        self.folder = folder
        self.force = force
        refuse_foreign_folder(folder, MANIFEST)
        self.manifest = read_manifest(folder, force=force)

    @contextmanager
    def seen_unlocked(self) -> Iterator[None]:
        """Raises `UsageError` instead of an error about the folder's content if another run is writing to it."""
        try:
            yield
        except (UsageError, ArtifactError) as error:
            if self._is_busy():
                raise self._busy() from error
            raise

    def _is_busy(self) -> bool:
        if not (self.folder / LOCK).exists():
            return False
        try:
            FileLock(self.folder / LOCK).acquire(timeout=0).lock.release()
        except Timeout:
            return True
        except OSError:  # nobody can write there
            pass
        return False

    def _busy(self) -> UsageError:
        return UsageError(f"another run is writing to {self.folder}; wait for it, or use another --out")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the folder and locks it; a folder in which nothing was made is removed again."""
        with make_folders(self.folder), self._lock():
            self.manifest = read_manifest(self.folder, force=self.force)
            remove_leftovers(self.folder)
            yield

    @contextmanager
    def _lock(self) -> Iterator[None]:
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise self._busy() from error
        try:
            yield
        finally:
            # If something was made, the file stays: removing it while another run waits would admit two runs.
            if not (self.folder / MANIFEST).exists():
                with suppress(PermissionError):  # Windows removes it when it is released
                    (self.folder / LOCK).unlink(missing_ok=True)
            lock.release()

    def is_done(self, step: str, key: str) -> bool:
        """Whether the step was finished from these inputs and its files are unchanged."""
        target = self.folder / step
        if not target.exists():
            return False
        recorded = self.manifest.steps.get(step)
        if recorded != key:
            if not self.force:
                origin = f"is not listed in {MANIFEST}"
                if recorded is not None:
                    origin = f"was made from other inputs ({', '.join(differing(recorded, key))})"
                raise UsageError(f"{target} {origin}; use --force to replace it, or another --out")
            return False
        damages = self.manifest.damages(self.folder, step)
        if damages and not self.force:
            raise ArtifactError("; ".join(damages) + "; export again with --force")
        return not damages

    @contextmanager
    def writing(self, step: str, key: str, *, folder: bool, resumes: bool = False) -> Iterator[Path]:
        """Yields a temporary path to make a step in; if the block succeeds, the step is recorded and moved into place.

        Existing files are removed before the step is recorded: a run killed before the move leaves a step that is
        recorded but missing, which the next run makes again.

        Args:
            resumes: Whether the temporary folder is kept if the run is interrupted or the machine fails, so that the
                next one with the same key goes on with what it holds.
        """
        target = self.folder / step
        with (
            unfinished_folder(self.folder, sha256_json([step, key]))
            if resumes
            else scratch_folder(self.folder) as scratch
        ):
            path = scratch / target.name
            if folder:
                path.mkdir(exist_ok=True)
            yield path
            self.record(step, key, path)

    def record(self, step: str, key: str, path: Path) -> None:
        """Records a step that is made at a temporary path of this folder, and moves it into place."""
        target = self.folder / step
        self.manifest.record(step, key, path)
        with set_aside(target, path.parent):
            self.manifest.write(self.folder)
        with make_folders(target.parent):
            move_into_place(path, target)

    def remove(self, step: str) -> None:
        """Drops a step and its files, if it was made."""
        path = self.folder / step
        if path.is_dir():
            shutil.rmtree(path)
            with suppress(OSError):  # other steps are in it
                for parent in path.parents[: step.count("/")]:
                    parent.rmdir()
        path.unlink(missing_ok=True)
        self.manifest.forget(step)

    def finish(self) -> None:
        """Marks the export as complete, and removes what interrupted runs with other inputs left."""
        remove_unfinished(self.folder)
        self.manifest.complete = True
        self.manifest.write(self.folder)
