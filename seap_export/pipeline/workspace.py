"""An output folder: one writer at a time, finished steps reused, nothing overwritten unasked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from seap_export.errors import ArtifactError, UsageError
from seap_export.pipeline.manifest import MANIFEST, Manifest, read_manifest
from seap_export.pipeline.outputs import remove_leftovers, write_whole

__all__ = ["Workspace"]

_LOCK = ".seap-export.lock"


class Workspace:
    """The folder given as --out, locked while the object is entered.

    Args:
        folder: The folder; it need not exist.
        force: Replace steps that were made from other inputs, or whose files are damaged.
    """

    def __init__(self, folder: Path, force: bool) -> None:
        """Raises `UsageError` if the folder holds something that is not an export."""
        self.folder = folder
        self._force = force
        self._existed = folder.is_dir()
        _refuse_foreign(folder)
        self.manifest = read_manifest(folder) or Manifest()
        self._lock = FileLock(folder / _LOCK)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise UsageError(f"another run is writing to {self.folder}; wait for it, or use another --out") from error
        self.manifest = read_manifest(self.folder) or Manifest()
        remove_leftovers(self.folder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if not self._existed and not self.manifest.steps:
            (self.folder / _LOCK).unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def is_done(self, step: str, key: str) -> bool:
        """Whether the step was finished from these inputs and its files are as they were.

        Raises:
            UsageError: The step's place is taken by something made from other inputs, and there is no --force.
            ArtifactError: Its files were changed since, and there is no --force.
        """
        target = self.folder / step
        recorded = self.manifest.steps.get(step)
        if recorded == key:
            damage = self.manifest.damage(self.folder, step)
            if damage is None:
                return True
            if not self._force:
                raise ArtifactError(f"{damage}; use --force to make it again")
        elif target.exists() and not self._force:
            raise UsageError(f"{target} was made from other inputs; use --force to replace it, or another --out")
        return False

    @contextmanager
    def writing(self, step: str, key: str, *, folder: bool) -> Iterator[Path]:
        """Gives a temporary path to make the step in; when the block ends well it is moved and recorded."""
        with write_whole(self.folder / step, folder=folder, force=self._force) as path:
            yield path
        self.manifest.complete = False
        self.manifest.record(self.folder, step, key)
        self.manifest.write(self.folder)


def _refuse_foreign(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; give a folder as --out")
    others = [path.name for path in folder.iterdir() if not path.name.startswith(".seap-export")]
    if others and MANIFEST not in others:
        raise UsageError(f"{folder} holds something else ('{sorted(others)[0]}'); give an empty or a new folder as --out")
