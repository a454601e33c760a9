"""Reads a GGUF file back, and compares it with the model folder that it was written from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from converters.comparison import are_as_near
from converters.gguf.blocks import GRIDS
from converters.gguf.encoding import TOLERANCES, decode, encode, worse_rows
from converters.gguf.file import MODEL_FILE, FilePlan
from converters.gguf.layout import FileTensor
from converters.gguf.rows import plain_rows, rows_of
from converters.gguf.types import PRESETS, needs_library
from converters.gguf.writer import other_files, whole_metadata, write_header
from converters.read_back import PlainWeights
from converters.small_files import file_differences, foreign_files
from seap_export.errors import ArtifactError
from seap_export.model.sources.gguf.header import GgufTensor, read_header
from seap_export.model.sources.stored import PlainReader
from seap_export.model.sources.weights import SafetensorsReader

#: Rows that are compared at a time.
_ROWS = 4096


class GgufWeights(PlainWeights):
    """The weights of a GGUF file by the stored names of the model folder, dequantised, a few tensors at a time.

    The precision of `plan` does not matter.
    """

    def __init__(self, folder: Path, plan: FilePlan) -> None:
        super().__init__(plan.spec)
        self._path = folder / MODEL_FILE
        self._tensors = _header(self._path)[1]
        self._shapes = plan.spec.tensors()
        self._tensor_of = {part.plain: tensor for tensor in plan.tensors for part in tensor.parts}
        wrong = next(iter(_tensor_damages(plan, self._tensors, types=False)), None)
        if wrong is not None:
            raise ArtifactError(f"{self._path}: {wrong}; export it again")

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32; gains of values are 1 and not stored."""
        tensor = self._tensor_of.get(name)
        if tensor is None:
            return torch.ones(self._shapes[name])
        rows = plain_rows(tensor, self.rows(tensor, slice(0, tensor.rows)))
        return torch.from_numpy(rows[name]).reshape(self._shapes[name])

    def packed(self, tensor: FileTensor, rows: slice) -> NDArray[np.uint8]:
        """Rows of a tensor as they are stored, [rows, bytes of a row]; a vector's numbers are rows of one."""
        stored = self._tensors[tensor.name]
        width = stored.size // tensor.rows
        start, stop, _ = rows.indices(tensor.rows)
        raw = np.fromfile(self._path, np.uint8, (stop - start) * width, offset=stored.offset + start * width)
        return raw.reshape(stop - start, width)

    def vector(self, name: str) -> NDArray[np.float32]:
        """The float32 numbers of a tensor that holds none of the model's weights, such as `rope_freqs.weight`."""
        stored = self._tensors[name]
        return np.fromfile(self._path, np.float32, stored.shape[0], offset=stored.offset)

    def rows(self, tensor: FileTensor, rows: slice) -> NDArray[np.float32]:
        """Rows of a tensor, dequantised to float32: [rows, columns], or [rows] of a vector."""
        values = decode(self.packed(tensor, rows), self._tensors[tensor.name].kind)
        return values.reshape(-1) if len(tensor.shape) == 1 else values


def precision_of(folder: Path) -> str:
    """The preset of a written file."""
    path = folder / MODEL_FILE
    number = _header(path)[0].get("general.file_type")
    precision = next((name for name, preset in PRESETS.items() if preset.number == number), None)
    if precision is None:
        raise ArtifactError(f"{path}: its precision, {number!r:.40}, is not known; export it again")
    return precision


def weight_differences(model_folder: Path, folder: Path, plan: FilePlan) -> Iterator[str]:
    """The tensors that are not the model's, one line each.

    Read back, each weight must be as near to the model's as the rounding of its type allows; and unless it took
    llama.cpp's library to write them, the bytes must be those that the weights give. A block of a type of `GRIDS` may
    have others that are as near, since another machine may choose another of two scales that are equally good.
    """
    weights = GgufWeights(folder, plan)
    reader = PlainReader(SafetensorsReader(model_folder), plan.spec)
    for tensor in plan.tensors:
        kind, start, far, other = plan.kind(tensor), 0, 0, 0
        for expected in rows_of(tensor, kind, reader):
            for first in range(0, len(expected), _ROWS):
                wanted = expected[first : first + _ROWS]
                count = wanted.size if len(tensor.shape) == 1 else len(wanted)
                chunk = slice(start, start + count)
                stored = weights.rows(tensor, chunk).reshape(wanted.shape)
                if kind in GRIDS:
                    far += _in_worse_blocks(stored, wanted, kind)
                else:
                    worse = worse_rows(stored, wanted, kind)[:, None] if wanted.ndim == 2 else False
                    far += int((TOLERANCES[kind].exceeded(stored, wanted) | worse).sum())
                    if not needs_library(kind):
                        packed = weights.packed(tensor, chunk).reshape(-1)
                        other += int((packed != encode(wanted, kind).reshape(-1)).any())
                start += count
        if far:
            yield f"tensor '{tensor.name}': {far} weights are further off than {kind.name} rounds"
        elif other:
            yield f"tensor '{tensor.name}' is not stored as {kind.name} stores the model's weights"
    for name, factors in plan.rope_tensors.items():
        if not np.array_equal(weights.vector(name), factors):
            yield f"tensor '{name}' is not the model's"


def _in_worse_blocks(rows: NDArray[np.float32], wanted: NDArray[np.float32], kind: Kind) -> int:
    """How many weights of a type of `GRIDS` are in blocks that are further off than rounding the model's now gets."""
    best = decode(encode(wanted, kind), kind)
    stored, best, wanted = (values.reshape(-1, GRIDS[kind].block_size) for values in (rows, best, wanted))
    return int((stored != best)[~are_as_near(stored, best, wanted)].sum())


def file_damages(model_folder: Path, folder: Path, plan: FilePlan) -> Iterator[str]:
    """Finds missing, truncated and foreign parts of a folder, one line each; see `Format.damages`."""
    path = folder / MODEL_FILE
    try:
        metadata, tensors = _header(path)
    except ArtifactError as error:
        yield str(error)
        return
    files = other_files(model_folder, plan)
    yield from file_differences(folder, files)
    yield from foreign_files(folder, [*files, MODEL_FILE])
    end = max((tensor.offset + tensor.size for tensor in tensors.values()), default=0)
    if path.stat().st_size != -(-end // gguf.GGUF_DEFAULT_ALIGNMENT) * gguf.GGUF_DEFAULT_ALIGNMENT:
        yield f"{path}: {path.stat().st_size - end} bytes follow the last tensor"
    damages = [*_tensor_damages(plan, tensors, types=True), *_metadata_damages(plan, metadata, model_folder)]
    if not damages and not _has_header(path, plan, model_folder):
        damages.append("its header has other types, another order or other places of tensors; export it again")
    yield from (f"{path}: {damage}" for damage in damages)


def _metadata_damages(plan: FilePlan, stored: Mapping[str, Any], model_folder: Path) -> Iterator[str]:
    expected = {"general.architecture": plan.architecture.name, **whole_metadata(plan, model_folder)}
    for key in sorted(expected.keys() | stored.keys()):
        if not _is_same(stored.get(key), expected.get(key)):
            yield f"metadata '{key:.60}' are {_short(stored.get(key))}, not {_short(expected.get(key))}"


def _has_header(path: Path, plan: FilePlan, model_folder: Path) -> bool:
    """Whether a file begins with the bytes with which it would be written now."""
    with tempfile.TemporaryDirectory() as made, closing(gguf.GGUFWriter(None, plan.architecture.name)) as writer:
        header = Path(made) / path.name
        write_header(writer, header, plan, whole_metadata(plan, model_folder))
        writer.fout[0].flush()
        expected = header.read_bytes()
    with path.open("rb") as file:
        return file.read(len(expected)) == expected


def _header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    try:
        return read_header(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); export it again") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: truncated or not a GGUF file ({reason}); export it again") from error


def _tensor_damages(plan: FilePlan, stored: Mapping[str, GgufTensor], *, types: bool) -> Iterator[str]:
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    shapes |= {name: factors.shape for name, factors in plan.rope_tensors.items()}
    for name in sorted(shapes.keys() - stored.keys()):
        yield f"tensor '{name}' is missing"
    for name in sorted(stored.keys() - shapes.keys()):
        yield f"tensor '{name:.60}' is not the model's"
    for name in sorted(shapes.keys() & stored.keys()):
        if stored[name].shape != shapes[name]:
            yield f"tensor '{name}' is {list(stored[name].shape)}, not {list(shapes[name])}"
    for tensor in plan.tensors if types else ():
        if tensor.name in stored and stored[tensor.name].kind != plan.kind(tensor):
            yield f"tensor '{tensor.name}' is {stored[tensor.name].kind.name}, not {plan.kind(tensor).name}"


def _is_same(stored: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(stored, float):
        return bool(np.float32(stored) == np.float32(wanted))
    if isinstance(wanted, list) and wanted and isinstance(wanted[0], float) and isinstance(stored, list):
        return np.array_equal(np.asarray(stored, np.float32), np.asarray(wanted, np.float32))
    return type(stored) is type(wanted) and bool(stored == wanted)


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    return f"a list of {len(value)}" if isinstance(value, list) else f"{value!r:.40}"
