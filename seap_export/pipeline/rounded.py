"""Where the rounded model is that a folder was written from."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from converters.format import Format
from converters.formats import read_format
from seap_export.errors import ArtifactError
from seap_export.rounding.grid import BlockQuantization
from seap_export.rounding.write import ROUNDING_FILE, origin_differences, rounding_of

__all__ = ["ROUNDING", "differences", "model_of", "rounding_step", "write_format"]

#: The folder of rounded models within an output folder.
ROUNDING = "rounding"


def rounding_step(variant: str, how: BlockQuantization) -> str:
    """The folder of a variant's rounded model within an output folder."""
    return f"{ROUNDING}/{variant}/{how.name}"


def write_format(own: Format, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
    """Writes a model folder in a format; see `Format.write`. That of a rounded model says so in a file besides."""
    own.write(model_folder, out_folder, on_layer)
    if (model_folder / ROUNDING_FILE).is_file():
        shutil.copyfile(model_folder / ROUNDING_FILE, out_folder / ROUNDING_FILE)


def differences(written: Path) -> Iterator[str]:
    """The weights of a variant's folder that are not its model's, a line each; see `Format.differences`.

    Those of a folder that was written from a rounded model are compared with that, and it with what it was made from.

    Raises:
        ArtifactError: The folder or the rounded model is damaged, or the rounded model is missing.
        InputError: The model folder is damaged.
    """
    hf, model = written.parent / "hf", model_of(written)
    yield from read_format(written).differences(model, written)
    if model != hf:
        yield from origin_differences(hf, model)


def model_of(written: Path) -> Path:
    """The model folder that a variant's folder was written from: `hf` beside it, or the rounded model.

    Raises:
        ArtifactError: The rounded model is missing, or the note of it is damaged.
    """
    variant, how = written.absolute().parent, rounding_of(written)
    if how is None:
        return written.parent / "hf"
    folder = variant.parent / rounding_step(variant.name, how)
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{written}: the rounded model that it was written from is missing at {folder}; copy it there from the "
            "export, or export again"
        )
    return folder
