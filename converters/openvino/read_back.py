"""Reads the weights of an IR back, and compares them with those of the model that it was written from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.comparison import other_numbers, worse_rows
from converters.openvino.ir_file import Ir, read_ir
from converters.openvino.stored_tensor import BLOCK, Storage, StoredTensor, dequantized
from converters.openvino.tensors import Weight, joined_parts, standard_graph
from converters.read_back import PlainWeights
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec

#: The bytes of a matrix of integers, and those of its scales.
Stored = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class IrWeights(PlainWeights):
    """The weights of an IR by the names of the model folder, float32; one stored tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._ir, self._shapes, self._joined = read_ir(folder), spec.tensors(), joined_parts(spec)
        self._joined_name = {part: name for name, parts in self._joined.items() for part in parts}

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
        joined = self._joined_name.get(name, name)
        parts = self._joined.get(joined, (name,))
        counts = [self._shapes[part][0] for part in parts]
        shape = (sum(counts), *self._shapes[name][1:])
        start = sum(counts[: parts.index(name)])
        rows = _floats(self._ir, joined, shape)[start : start + self._shapes[name][0]]
        return torch.from_numpy(np.ascontiguousarray(rows))


def _floats(ir: Ir, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A stored tensor as a runtime computes with it: dequantised to float32, in this shape."""
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
    """The tensors that are further off than their type rounds, and NaN and infinities; see `Format.differences`."""
    ir = read_ir(folder)
    for weight in standard_graph(model_folder, storage).weights:
        problems = [problem for tensor in weight.tensors for problem in _other_form(ir, tensor)]
        yield from problems
        if problems:
            continue
        worse = _other_levels(ir, weight) if len(weight.tensors) == 2 else _other_floats(ir, weight.tensors[0])
        yield from filter(None, [worse])


def _other_form(ir: Ir, tensor: StoredTensor) -> Iterator[str]:
    constant = ir.constants.get(tensor.name)
    if constant is None:
        yield f"'{tensor.name}' is not stored"
    elif (constant.element_type, constant.shape) != (tensor.element_type, tensor.shape):
        yield (
            f"'{tensor.name}' is stored as {constant.element_type} {list(constant.shape)}, "
            f"not as {tensor.element_type} {list(tensor.shape)}"
        )


def _other_floats(ir: Ir, tensor: StoredTensor) -> str | None:
    name, dtype = ("fp32", np.float32) if tensor.element_type == "f32" else ("fp16", np.float16)

    def pieces() -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        start = 0
        for piece in tensor.write():
            stored = ir.read(tensor.name, slice(start, start + piece.size))
            start += piece.size
            yield piece.view(dtype).astype(np.float32), stored.view(dtype).astype(np.float32)

    return other_numbers(tensor.name, pieces(), name)


def _other_levels(ir: Ir, weight: Weight) -> str | None:
    """Rows of integers that are further from the model's weights than rounding them now gets."""
    levels, scales = weight.tensors
    best, given = (_whole(levels), _whole(scales)), (ir.read(levels.name), ir.read(scales.name))
    if all(map(np.array_equal, best, given)):
        return None
    if not np.isfinite(given[1].view(np.float16)).all():
        return f"'{scales.name}' holds NaN or infinite values"

    def read(rows: slice) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        matrix, factors = _some_rows(best, weight, rows)
        return matrix, _some_rows(given, weight, rows)[0], factors

    return worse_rows(levels.name, weight.shape[0], read)


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
