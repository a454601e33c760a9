"""Results on disk, so that a table that takes hours goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

__all__ = ["Kept"]


class Kept:
    """A folder with a JSON file for each result.

    Args:
        folder: It is made if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def get(self, *names: object) -> dict[str, Any] | None:
        """The result under some names; None: there is none yet."""
        path = self._path(names)
        values: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
        return values

    def put(self, value: dict[str, Any], *names: object) -> None:
        """Keeps a result, in place of an earlier one."""
        path = self._path(names)
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(value, indent=1) + "\n", "utf-8", newline="\n")
        os.replace(unfinished, path)

    def _path(self, names: tuple[object, ...]) -> Path:
        return self._folder / ("--".join(re.sub(r"[^\w.]+", "_", str(name)) for name in names) + ".json")
