"""Reads the weights of an IR back, and compares them with those of the model that it was written from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.openvino.ir_file import Ir, read_ir
from converters.openvino.stored_tensor import BLOCK, Storage, StoredTensor, dequantized
from converters.openvino.tensors import Weight, parts_of, standard_graph
from seap_export.errors import ArtifactError
from seap_export.families import ModelSpec, names
from seap_export.sources.stored import StoredForm

__all__ = ["IrWeights", "weight_differences"]

#: Largest difference of a float over the largest of its tensor: units in the last place, where another machine rounds
#: differently.
_ROUNDING = {"f32": 1e-6, "f16": 2e-3}
#: A row of integers may be this many times as far from the model's as if it were rounded now: if two scales of a block
#: are equally good, another machine may choose the other.
_ERROR_RATIO = 1.01
#: The bytes of a matrix of integers, and those of its scales.
Stored = tuple[NDArray[np.uint8], NDArray[np.uint8]]
#: Rows of a matrix of integers that are compared in float32 at a time.
_ROWS = 1024


class IrWeights:
    """The weights of an IR by the names of the model folder, float32; one stored tensor is in memory at a time.

    Args:
        folder: Contains the IR.
        spec: The model's shapes.

    Raises:
        ArtifactError: The IR cannot be read.
    """

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        self._ir, self._form, self._shapes = read_ir(folder), StoredForm(spec), spec.tensors()
        self._held: dict[str, list[str]] = {}
        for plain in self._shapes:
            self._held.setdefault(self._form.holders([plain])[0], []).append(plain)

    def read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors of these names, as their shapes are in the model folder.

        Raises:
            ArtifactError: One is not stored, in another shape, or truncated.
        """
        return {name: self._stored(name) for name in wanted}

    def _stored(self, name: str) -> torch.Tensor:
        plain = {own: self._plain(own) for own in self._held[name]}
        return self._form.to_stored(plain)[name].float()

    def _plain(self, name: str) -> torch.Tensor:
        joined = _joined_name(name)
        parts = parts_of(joined)
        rows = [self._shapes[part][0] for part in parts]
        shape = (sum(rows), *self._shapes[name][1:])
        start = sum(rows[: parts.index(name)])
        found = _floats(self._ir, joined, shape)[start : start + self._shapes[name][0]]
        return torch.from_numpy(np.ascontiguousarray(found))


def _joined_name(name: str) -> str:
    """The constant that holds a tensor of the plain form: those of queries, keys and values are one."""
    layer = names.layer_of(name)
    for part in ("q_proj", "k_proj", "v_proj"):
        if layer is not None and name.startswith(names.tensor(part, layer) + "."):
            return name.replace(part, "qkv_proj")
    return name


def _floats(ir: Ir, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A tensor as a runtime computes with it."""
    constant = ir.constants.get(name)
    if constant is not None and constant.element_type in ("i8", "i4"):
        scales = ir.constants.get(f"{name}.scale")
        rows, columns = shape
        if scales is None or constant.shape[0] != rows or scales.shape != (*constant.shape[:2], 1):
            raise ArtifactError(f"{ir.data_file.parent}: '{name}' is stored in another shape; export again")
        stored, factors = ir.read(name), ir.read(f"{name}.scale").view(np.float16).reshape(scales.shape)
        return dequantized(stored, factors, (rows, columns), "i8" if constant.element_type == "i8" else "i4")
    raw = ir.read(name)
    if constant is None or constant.shape != shape or constant.element_type not in ("f32", "f16"):
        raise ArtifactError(f"{ir.data_file.parent}: '{name}' is stored in another shape or type; export again")
    return raw.view(np.float32 if constant.element_type == "f32" else np.float16).reshape(shape).astype(np.float32)


def weight_differences(model_folder: Path, folder: Path, storage: Storage) -> Iterator[str]:
    """The tensors that are further from the model's than their type rounds, and NaN and infinities, one line each.

    Raises:
        ArtifactError: The IR cannot be read.
        InputError: The model folder is damaged.
    """
    ir = read_ir(folder)
    for weight in standard_graph(model_folder, storage).weights:
        problems = [problem for tensor in weight.tensors for problem in _other_form(ir, tensor)]
        yield from problems
        if problems:
            continue
        if len(weight.tensors) == 2:
            yield from _worse_rows(ir, weight)
        else:
            yield from _other_floats(ir, weight.tensors[0])


def _other_form(ir: Ir, tensor: StoredTensor) -> Iterator[str]:
    found = ir.constants.get(tensor.name)
    if found is None:
        yield f"'{tensor.name}' is not stored"
    elif (found.element_type, found.shape) != (tensor.element_type, tensor.shape):
        yield (
            f"'{tensor.name}' is stored as {found.element_type} {list(found.shape)}, not as {tensor.element_type} "
            f"{list(tensor.shape)}"
        )


def _other_floats(ir: Ir, tensor: StoredTensor) -> Iterator[str]:
    dtype = np.float32 if tensor.element_type == "f32" else np.float16
    start, largest, difference = 0, 0.0, 0.0
    for piece in tensor.write():
        own = ir.read(tensor.name, slice(start, start + piece.size)).view(dtype).astype(np.float32)
        wanted, start = piece.view(dtype).astype(np.float32), start + piece.size
        if not np.isfinite(own).all():
            yield f"'{tensor.name}' holds NaN or infinite values"
            return
        largest = max(largest, float(np.abs(wanted).max(initial=0.0)))
        difference = max(difference, float(np.abs(wanted - own).max(initial=0.0)))
    relative = difference / (largest or 1.0)
    if relative > _ROUNDING[tensor.element_type]:
        yield f"'{tensor.name}' differs from the model's by {relative:.1e} of its largest number"


def _worse_rows(ir: Ir, weight: Weight) -> Iterator[str]:
    """Rows of integers that are further from the model's weights than rounding them now gets."""
    levels, scales = weight.tensors
    own, given = (_whole(levels), _whole(scales)), (ir.read(levels.name), ir.read(scales.name))
    if all(map(np.array_equal, own, given)):
        return
    if not np.isfinite(given[1].view(np.float16)).all():
        yield f"'{scales.name}' holds NaN or infinite values"
        return
    starts = range(0, weight.shape[0], _ROWS)
    rows = [start + row for start in starts for row in _worse(own, given, weight, slice(start, start + _ROWS))]
    if rows:
        yield f"'{levels.name}' differs from the model's in {len(rows)} rows, for example row {rows[0]}"


def _worse(own: Stored, given: Stored, weight: Weight, rows: slice) -> list[int]:
    """Of some rows those that are further away, counted from the first; integers and scales are bytes."""
    (wanted, factors), (found, _) = (_some_rows(both, weight, rows) for both in (own, given))
    # If both are equally good, they differ by no more than the error of rounding.
    apart = np.square(wanted - found).sum(1)
    step = np.square(factors).sum(1) * BLOCK / 12
    further: list[int] = np.flatnonzero(apart > (_ERROR_RATIO - 1) * step).tolist()
    return further


def _some_rows(stored: Stored, weight: Weight, rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of the matrix that a runtime makes of integers and scales, and the scales of their blocks."""
    integers, scales = stored
    levels, (number, blocks, _) = weight.tensors[0], weight.tensors[0].shape
    factors = scales.view(np.float16).reshape(number, blocks, 1)[rows]
    shape = (len(factors), blocks * BLOCK)
    matrix = dequantized(integers.reshape(number, -1)[rows].reshape(-1), factors, shape, levels.element_type)
    return matrix, factors[..., 0].astype(np.float32)


def _whole(tensor: StoredTensor) -> NDArray[np.uint8]:
    return np.concatenate(list(tensor.write()))
