"""Reads the weights of an ExecuTorch program back, and finds differences between its folder and the model folder."""

from __future__ import annotations

from pathlib import Path

import torch

from converters.executorch.decoder import decoder_weights
from converters.executorch.stored_program import StoredProgram
from converters.read_back import PlainWeights
from seap_export.model.families import ModelSpec


class ExecutorchWeights(PlainWeights):
    """The weights of a program by the names of the model folder, float32; one tensor is in memory at a time."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        super().__init__(spec)
        self._stored = StoredProgram(folder)
        self.places = self._stored.places
        self._weights = {weight.name: weight for weight in decoder_weights(spec, self._stored.precision)}

    def plain(self, name: str) -> torch.Tensor:
        """The tensor `name` of the plain form, dequantised to float32."""
        return self._stored.numbers(self._weights[name]).rows()
