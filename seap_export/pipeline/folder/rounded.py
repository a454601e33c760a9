"""The rounded model that a folder was written from: beside the variant, or made again from the folder itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from converters.comparison import Comparison, compare, other_form
from converters.format import Format
from converters.formats import read_format
from seap_export.errors import ArtifactError, InputError, ParityFailure
from seap_export.model.sources.config import read_spec
from seap_export.pipeline.folder.names import HF, ROUNDING
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.likeness import unlike_tensors
from seap_export.pruning.rounding.note import ROUNDING_FILE, RoundingNote, read_note
from seap_export.pruning.rounding.restore import restore_rounded_model
from seap_export.pruning.rounding.write import write_other_files


def rounding_step(variant: str, how: BlockQuantization) -> str:
    """The folder of a variant's rounded model within an output folder."""
    return f"{ROUNDING}/{variant}/{how.name}"


def write_format(format: Format, model_folder: Path, out_folder: Path, on_layer: Callable[[int], None]) -> None:
    """Writes a model folder in a format; see `Format.write`. That of a rounded model says so in a file besides."""
    format.write(model_folder, out_folder, on_layer)
    if (model_folder / ROUNDING_FILE).is_file():
        shutil.copyfile(model_folder / ROUNDING_FILE, out_folder / ROUNDING_FILE)


def compared(written: Path) -> Comparison:
    """What is wrong with a variant's folder; see `converters.comparison`.

    Those of a folder that was written from a rounded model are compared with that, `hf` with what was rounded, and the
    two with each other.
    """
    hf, note = written.parent / HF, checked_note(written)
    try:
        with opened_model(written) as model:
            comparison = compare(read_format(written), model, written)
            if note is None:
                return comparison
            others = (*note.origin_differences(hf), *unlike_tensors(hf, model, note.grid))
            stale = _stale_files(hf, model, note)
            return Comparison((*comparison.form, *stale), (*comparison.weights, *others))
    except ParityFailure as error:
        return Comparison(weights=(str(error).removeprefix("weights: "),))


def _stale_files(hf: Path, rounded: Path, note: RoundingNote) -> list[str]:
    """The files beside a rounded model's weights that are not made of those in `hf`, a line each."""
    with TemporaryDirectory() as scratch:
        write_other_files(hf, Path(scratch), note)
        names = sorted(path.name for path in Path(scratch).iterdir() if path.is_file())
        return list(other_form(Path(scratch), rounded, names, ()))


def checked_note(written: Path) -> RoundingNote | None:
    """The note in a variant's folder; None: it was not written from a rounded model."""
    if (note := read_note(written)) is None:
        return None
    format = read_format(written)
    try:
        grid = format.grid(read_spec(written.parent / HF))
    except InputError as error:  # here the model is a part of the artifact
        raise ArtifactError(str(error)) from error
    if grid is not None and grid.ways:  # the bits of each matrix are in the note alone
        grid = format.written_grid(written)
    if note.grid != grid:
        raise ArtifactError(f"{written / ROUNDING_FILE}: its grid is not that of the other files; export again")
    return note


@contextmanager
def opened_model(written: Path) -> Iterator[Path]:
    """The model folder that a variant's folder was written from: `hf` beside it, or the rounded model.

    Where the rounded model is missing, it is made again in a temporary folder, from the written folder's weights.
    """
    hf, note = written.parent / HF, checked_note(written)
    if note is None:
        yield hf
        return
    variant = written.absolute().parent
    kept = variant.parent / rounding_step(variant.name, note.grid)
    if (kept / "config.json").is_file():
        yield kept
        return
    with TemporaryDirectory() as scratch:
        _restore(hf, written, note, kept, Path(scratch))
        yield Path(scratch)


def _restore(hf: Path, written: Path, note: RoundingNote, kept: Path, folder: Path) -> None:
    try:
        weights = read_format(written).weights(written, read_spec(hf))
        unproven = restore_rounded_model(hf, weights.read, note, folder)
    except InputError as error:  # here the model is a part of the artifact
        raise ArtifactError(str(error)) from error
    if unproven:
        others = len(unproven) - 1
        what = f"and {others} more in {written.name} are not those" if others else f"in {written.name} is not that"
        raise ParityFailure(
            f"weights: '{unproven[0]}' {what} of the rounded model; export again, or, if it may only be stored less "
            f"exactly, copy the rounded model from the export to {kept}"
        )
