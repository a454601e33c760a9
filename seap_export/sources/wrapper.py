"""Finds the language model's tensors in a multimodal checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from seap_export.errors import InputError
from seap_export.families.parts import Wrapper
from seap_export.sources.weights import WeightReader

__all__ = ["LanguagePart"]


class LanguagePart:
    """A `WeightReader` with the names that the family's own checkpoints have; the rest of the model is left out.

    Raises:
        InputError: Two tensors would have one name.
    """

    def __init__(self, reader: WeightReader, wrapper: Wrapper) -> None:
        self._reader = reader
        self._names: dict[str, str] = {}
        for name in reader.shapes():
            if _is_left_out(name, wrapper):
                continue
            first = self._names.setdefault(_unwrapped(name, wrapper), name)
            if first != name:
                raise InputError(
                    f"the tensors '{first}' and '{name}' are both '{_unwrapped(name, wrapper)}'; remove one"
                )

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point dtype in which a copy of these weights is stored."""
        return self._reader.dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of the language model."""
        shapes = self._reader.shapes()
        return {plain: shapes[name] for plain, name in self._names.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors."""
        wanted = {self._names[plain]: plain for plain in names}
        return {wanted[name]: tensor for name, tensor in self._reader.read(wanted).items()}


def _is_left_out(name: str, wrapper: Wrapper) -> bool:
    return name.removeprefix("model.").startswith(wrapper.left_out)


def _unwrapped(name: str, wrapper: Wrapper) -> str:
    for prefix in wrapper.prefixes:
        if name.startswith(prefix):
            return "model." + name.removeprefix(prefix)
    return name.removeprefix("language_model.")
