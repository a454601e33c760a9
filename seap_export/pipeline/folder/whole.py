"""whole.json: what was measured of the whole model, merely rounded, beside the variants of an output folder.

Figures are found again by their keys. The file is not part of the manifest, which has a step for each model that is
kept. Their speeds are in performance.json, as those of variants are.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from seap_export.common.json_file import read_artifact, write_json
from seap_export.errors import SeapError
from seap_export.pipeline.folder.outputs import write_whole as write_file

WHOLE = "whole.json"
WHOLE_SCHEMA = "seap-export/whole/1"
_OF_A_MODEL = {
    "task": str,
    "precision": str,
    "options": dict,
    "refusal": str,
    "command": str,
    "statistics": dict,
    "key": str,
    "bytes": int | None,
    "quality": dict | None,
}


def read_whole(folder: Path) -> dict[str, dict[str, Any]]:
    """The entries of whole.json by model; none if the file is missing, or of another version.

    The file has no hash, so one that is not as `write_whole` leaves it counts as missing.
    """
    with suppress(SeapError, KeyError, TypeError, AttributeError):
        if (folder / WHOLE).is_file():
            values = read_artifact(folder / WHOLE)
            models: dict[str, dict[str, Any]] = values["models"]
            is_sound = all(isinstance(row[key], kind) for row in models.values() for key, kind in _OF_A_MODEL.items())
            if is_sound and values["schema"] == WHOLE_SCHEMA:
                return models
    return {}


def write_whole(models: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
    """Replaces whole.json in a folder atomically."""
    with write_file(folder / WHOLE, force=True) as path:
        write_json(path, {"schema": WHOLE_SCHEMA, "models": dict(sorted(models.items()))})
