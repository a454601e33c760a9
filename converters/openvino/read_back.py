"""Reads the weights of an IR back, and compares them with those of the model that it was written from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from converters.openvino.ir_file import Ir, read_ir
from converters.openvino.stored_tensor import dequantized
from converters.openvino.tensors import joined_parts
from converters.read_back import PlainWeights
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec


class IrWeights(PlainWeights):
    """The weights of an IR by the names of the model folder, float32; one stored tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._ir, self._shapes, self._joined = read_ir(folder), spec.tensors(), joined_parts(spec)
        self.places = self._ir.places
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
