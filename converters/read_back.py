"""Reads a model folder in the plain form, and gives the weights of a written file under the names of the folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import torch

from converters.format import Place
from seap_export.errors import ArtifactError, InputError
from seap_export.model.families import ModelSpec
from seap_export.model.sources.stored import PlainReader, StoredForm
from seap_export.model.sources.weights import SafetensorsReader, check_weights


def open_plain(model_folder: Path, spec: ModelSpec) -> PlainReader:
    reader = SafetensorsReader(model_folder)
    check_weights(reader, StoredForm(spec).shapes, str(model_folder))
    return PlainReader(reader, spec)


def not_finite(name: str) -> InputError:
    """The error of a tensor of a model that holds NaN or infinite values."""
    return InputError(f"weights: '{name}' holds NaN or infinite values; download or convert it again")


class PlainWeights(ABC):
    """The weights of a file that can be read in the plain form; see `converters.format.StoredWeights`.

    One tensor of the plain form is in memory at a time.

    Attributes:
        places: The bytes that were read for weights until now.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.places: list[Place] = []
        self._form = StoredForm(spec)
        self._plain_of: dict[str, list[str]] = {}
        for name in spec.tensors():
            for stored in self._form.holders([name]):
                self._plain_of.setdefault(stored, []).append(name)
        self._latest: dict[str, torch.Tensor] = {}

    @abstractmethod
    def plain(self, name: str) -> torch.Tensor:
        """A tensor of the plain form in float32: dequantised, with its rows in order.

        Raises:
            ArtifactError: The tensor is not stored, truncated, or of another shape.
        """

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors of the model folder in float32; raises the errors of `plain`."""
        return {name: self._as_in_the_model(name) for name in names}

    def _as_in_the_model(self, name: str) -> torch.Tensor:
        if name not in self._plain_of:
            raise ArtifactError(f"'{name:.80}' is not a tensor of the model; export again")
        if name not in self._latest:  # the experts of a layer are apart in the folder
            self._latest = {}
            self._latest = self._form.to_stored({part: self.plain(part) for part in self._plain_of[name]})
        return self._latest.pop(name).float()
