"""Compares a written folder with what its format writes of the model now: the one proof of form and of weights.

The same machine writes the same bytes. Another may round a weight in its last place differently, or choose the other
of two scales that are equally good. So bytes that hold no weight must be equal, and weights as near to the model's as
those that are written now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

from converters.format import Format, Place, StoredWeights
from converters.small_files import foreign_files, json_difference
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.model.sources.config import read_spec
from seap_export.model.sources.stored import StoredForm
from seap_export.model.sources.weights import Difference, SafetensorsReader, WeightReader
from seap_export.pruning.rounding.note import ROUNDING_FILE

#: Weights may have this many times the squared error of those that are written now.
ERROR_RATIO = 1.001
#: What another machine's arithmetic in float32 may change before a number is rounded, over the largest of its block:
#: eight units in the last place, as where two numbers nearly cancel.
_ARITHMETIC = 8 * 2.0**-23
#: Neighbours in a row whose errors are added: whole blocks of every grid with a scale for some weights of a row.
_BLOCK = 256
#: Bytes that are compared at a time, and rows of a tensor.
_BYTES, _ROWS = 1 << 24, 1 << 12


@dataclass(frozen=True)
class Comparison:
    """What is wrong with a folder, a line each.

    Attributes:
        form: Files that are missing, foreign, or have other bytes outside of weights.
        weights: Tensors that are further from the model's than rounding explains, as far as they can be read.
    """

    form: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()


def compare(format: Format, model_folder: Path, folder: Path) -> Comparison:
    """Writes a model folder once more, into a temporary folder, and compares the two.

    Raises:
        ArtifactError: A file cannot be read, or the model could not be written so.
        EnvironmentFailure: A package is missing, or the disk is full.
    """
    try:
        with TemporaryDirectory() as scratch:
            fresh, spec = Path(scratch), read_spec(model_folder)
            format.write_like(folder, model_folder, fresh)
            if (folder / ROUNDING_FILE).is_file() and (model_folder / ROUNDING_FILE).is_file():
                copyfile(model_folder / ROUNDING_FILE, fresh / ROUNDING_FILE)
            files = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
            differing = [name for name in files if any(True for _ in _differing_bytes(fresh / name, folder / name))]
            foreign = list(foreign_files(folder, files))
            if all(name.endswith(".json") for name in differing):
                return Comparison((*other_form(fresh, folder, differing, ()), *foreign))
            best, names = format.weights(fresh, spec), list(StoredForm(spec).shapes)
            for name in names:
                best.read([name])
            form = (*other_form(fresh, folder, differing, best.places), *foreign)
            other: list[Difference] = []
            with suppress(Exception) if form else nullcontext():  # a file of another form may be unreadable
                stored, model = format.weights(folder, spec), SafetensorsReader(model_folder)
                other += _other_weights(names, model, best, stored)
            return Comparison(form, tuple(other))
    except (InputError, UsageError) as error:
        raise ArtifactError(str(error)) from error


def other_form(fresh: Path, folder: Path, differing: Iterable[str], weights: Collection[Place]) -> Iterator[str]:
    """The files that are not as they are written now, a line each; JSON is compared by its values.

    Args:
        differing: Names of files that have other bytes, or are missing.
        weights: Where weights lie in the files that are written now.
    """
    for name in differing:
        ours, theirs = fresh / name, folder / name
        if not theirs.is_file():
            yield f"{theirs}: missing; export again"
            continue
        if name.endswith(".json"):
            yield from json_difference(ours, theirs)
            continue
        size, told = ours.stat().st_size, theirs.stat().st_size
        at = _outside(ours, theirs, [place for place in weights if place.file == ours])
        if at is not None:
            where = f"it has {told} bytes and not {size}" if told != size else f"{_words(ours, at)} at byte {at}"
            yield (
                f"{theirs}: differs from what this release writes for the model: {where}; export again, or use the "
                "packages that wrote it"
            )


def _words(file: Path, at: int) -> str:
    """What can be read around a byte of a file, such as the name of a node."""
    with file.open("rb") as content:
        content.seek(max(0, at - 48))
        near = content.read(96)
    return " ".join("".join(chr(byte) if 32 < byte < 127 else " " for byte in near).split())


def _differing_bytes(fresh: Path, stored: Path) -> Iterator[NDArray[np.int64]]:
    """The places of bytes that differ, some at a time; the first byte if a file is missing or has another size."""
    if not stored.is_file() or stored.stat().st_size != fresh.stat().st_size:
        yield np.zeros(1, np.int64)
        return
    with fresh.open("rb") as ours, stored.open("rb") as theirs:
        start = 0
        while piece := ours.read(_BYTES):
            other = theirs.read(_BYTES)
            if piece != other:
                yield start + np.flatnonzero(np.frombuffer(piece, np.uint8) != np.frombuffer(other, np.uint8))
            start += len(piece)


def _outside(fresh: Path, stored: Path, places: Collection[Place]) -> int | None:
    """The first byte that differs and is of no weight."""
    ranges = np.array(sorted((place.start, place.stop) for place in places), np.int64).reshape(-1, 2)
    ends = np.maximum.accumulate(ranges[:, 1])
    for differing in _differing_bytes(fresh, stored):
        before = np.searchsorted(ranges[:, 0], differing, "right")
        is_weight = (before > 0) & (differing < ends[before - 1]) if len(ends) else np.zeros(len(differing), np.bool_)
        if not is_weight.all():
            return int(differing[~is_weight][0])
    return None


def _other_weights(
    names: Iterable[str], model: WeightReader, best: StoredWeights, stored: StoredWeights
) -> Iterator[Difference]:
    """The tensors that are further from the model's than those that are written now."""
    for name in names:
        (near,), (given,) = (weights.read([name]).values() for weights in (best, stored))
        if torch.equal(near, given):
            continue
        rows = _worse_rows(model.read([name])[name], near, given)
        if rows:
            line = f"'{name}' differs from the model's in {len(rows)} rows, for example row {rows[0]}"
            yield Difference(name, line)


def _worse_rows(wanted: torch.Tensor, best: torch.Tensor, given: torch.Tensor) -> list[int]:
    """The rows in which a stored tensor is further from the model's than it would be if it were rounded now."""
    matrices = [tensor.reshape(-1, tensor.shape[-1] if tensor.ndim > 1 else 1) for tensor in (wanted, best, given)]
    if wanted.ndim < 2:
        matrices = [matrix.T for matrix in matrices]
    rows: list[int] = []
    for start in range(0, len(matrices[0]), _ROWS):
        goal, near, far = (_in_blocks(matrix[start : start + _ROWS].float()) for matrix in matrices)
        least, error = ((tensor - goal).square().sum(-1) for tensor in (near, far))
        slack = (_ARITHMETIC * goal.abs().amax(-1)).square() * goal.shape[-1]
        is_as_near = error <= ERROR_RATIO * least + slack  # not where one is NaN
        rows += [start + row for row in (~is_as_near).any(-1).nonzero().flatten().tolist()]
    return rows


def _in_blocks(rows: torch.Tensor) -> torch.Tensor:
    """Rows as [rows, blocks, columns of a block], filled up with zeros."""
    size = min(_BLOCK, rows.shape[-1])
    return pad(rows, (0, -rows.shape[-1] % size)).unflatten(-1, (-1, size))
