"""Reads the weights of a LiteRT-LM bundle back, and finds its differences from the model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from converters.litert.bundle import Bundle
from converters.litert.stored_program import StoredProgram
from converters.read_back import PlainWeights
from seap_export.model.families import ModelSpec


class LitertWeights(PlainWeights):
    """The weights of a bundle by the names of the model folder, float32; one tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._stored, self._shapes = StoredProgram(Bundle(folder)), spec.tensors()
        self.places = self._stored.places

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
        return torch.from_numpy(self._stored.numbers(name, self._shapes[name]).rows())
