"""Reads a GGUF file back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.format import Place
from converters.gguf.encoding import decode
from converters.gguf.file import MODEL_FILE, FilePlan
from converters.gguf.layout import FileTensor
from converters.gguf.rows import plain_rows
from converters.gguf.types import PRESETS
from converters.read_back import PlainWeights
from seap_export.errors import ArtifactError
from seap_export.model.sources.gguf.header import GgufTensor, read_header


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
        for tensor in plan.tensors:
            stored = self._tensors.get(tensor.name)
            if stored is None or stored.shape != tensor.shape:
                raise ArtifactError(f"{self._path}: '{tensor.name}' is missing or of another shape; export it again")

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
        first, size = stored.offset + start * width, (stop - start) * width
        raw = np.fromfile(self._path, np.uint8, size, offset=first)
        self.places.append(Place(self._path, first, first + size))
        return raw.reshape(stop - start, width)

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


def _header(path: Path) -> tuple[Mapping[str, Any], Mapping[str, GgufTensor]]:
    try:
        return read_header(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); export it again") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{path}: truncated or not a GGUF file ({reason}); export it again") from error
