"""Reads the weights of an MLX folder back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from converters.format import Place
from converters.mlx.layout import Layout
from converters.mlx.quantize import QuantizedRows, dequantize
from converters.mlx.writer import WEIGHTS
from converters.read_back import PlainWeights
from seap_export.errors import ArtifactError
from seap_export.model.families import ModelSpec


class MlxWeights(PlainWeights):
    """The weights of an MLX folder as float32 tensors; none is in memory until it is read."""

    def __init__(self, folder: Path, spec: ModelSpec, layout: Layout) -> None:
        super().__init__(spec)
        self._path, self._layout = folder / WEIGHTS, layout
        self._ranges = _data_ranges(self._path, layout)

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
        return values(name, self.parts(name), self._layout)

    def parts(self, name: str) -> dict[str, torch.Tensor]:
        """Reads the stored tensors that hold a tensor of the plain form, by their names in the file."""
        parts = self._layout.parts(name)
        self.places += [Place(self._path, *self._ranges[part]) for part in parts]
        with safe_open(self._path, framework="pt") as file:
            return {part: file.get_tensor(part) for part in parts}


def values(name: str, parts: Mapping[str, torch.Tensor], layout: Layout) -> torch.Tensor:
    """The tensor of the plain form that the stored ones hold, float32."""
    rows = [layout.flat(name, part) for part in parts.values()]
    if layout.bits is None or layout.group(name) is None:
        return layout.plain(name, rows[0].float())
    return layout.plain(name, dequantize(QuantizedRows(*rows), layout.bits_of(name)))


def _data_ranges(path: Path, layout: Layout) -> dict[str, tuple[int, int]]:
    """Where the numbers of each tensor lie in the file, by name.

    Raises:
        ArtifactError: The file is damaged, or a tensor is missing, or of another shape or dtype.
    """
    labels = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint32: "U32"}
    try:
        with safe_open(path, framework="pt"), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: missing, truncated or not a safetensors file ({error}); export again") from error
    for name, shape in layout.shapes.items():
        entry = header.get(name)
        if entry is None or (tuple(entry["shape"]), entry["dtype"]) != (shape, labels[layout.dtypes[name]]):
            raise ArtifactError(f"{path}: tensor '{name}' is missing, or of another shape or dtype; export again")
    starts = {name: header[name]["data_offsets"] for name in layout.shapes}
    return {name: (8 + size + start, 8 + size + end) for name, (start, end) in starts.items()}
