"""Where the rounded model is that a folder was written from, and the file in the folder that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from converters.format import Format
from seap_export.errors import ArtifactError
from seap_export.rounding.grid import BlockQuantization
from seap_export.rounding.write import rounding_of
from seap_export.sources.config import read_artifact

__all__ = ["ROUNDING_FILE", "model_of", "noted_rounding", "rounding_step", "write_format"]

#: In a folder whose weights were rounded with calibration texts; others were rounded to the nearest level.
ROUNDING_FILE = "rounding.json"
_SCHEMA = "seap-export/rounding/1"


def rounding_step(variant: str, how: BlockQuantization) -> str:
    """The folder of a variant's rounded model within an output folder."""
    return f"rounding/{variant}/{how.name}"


def write_format(own: Format, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
    """Writes a model folder, rounded or not, in a format; see `Format.write`."""
    own.write(model_folder, out_folder, on_layer)
    how = rounding_of(model_folder)
    if how is not None:
        text = json.dumps({"schema": _SCHEMA, **asdict(how)}, indent=1) + "\n"
        (out_folder / ROUNDING_FILE).write_text(text, "utf-8", newline="\n")


def noted_rounding(written: Path) -> BlockQuantization | None:
    """The grid that the model of a written folder was rounded to with calibration texts; None: it was not.

    Raises:
        ArtifactError: The note is damaged.
    """
    note = written / ROUNDING_FILE
    if not note.is_file():
        return None
    values = read_artifact(note)
    try:
        if values.pop("schema") != _SCHEMA:
            raise ValueError(_SCHEMA)
        return BlockQuantization(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{note}: damaged, or of another version; export again") from error


def model_of(written: Path) -> Path:
    """The model folder that a variant's folder was written from: `hf` beside it, or the rounded model.

    Raises:
        ArtifactError: The rounded model is missing, or the note of it is damaged.
    """
    variant, how = written.absolute().parent, noted_rounding(written)
    if how is None:
        return written.parent / "hf"
    folder = variant.parent / rounding_step(variant.name, how)
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{written}: the rounded model that it was written from is missing at {folder}; copy it there from the "
            "export, or export again"
        )
    return folder
