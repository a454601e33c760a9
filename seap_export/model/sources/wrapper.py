"""Finds the language model's tensors in a multimodal checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from seap_export.errors import InputError
from seap_export.model.families import Family
from seap_export.model.families.parts import Wrapper
from seap_export.model.sources.weights import WeightReader


class LanguagePart:
    """A `WeightReader` with the names that the family's own checkpoints have; the rest of the model is left out."""

    def __init__(self, reader: WeightReader, wrapper: Wrapper, root: str = "model.") -> None:
        self._reader = reader
        self._names: dict[str, str] = {}
        for name in reader.shapes():
            if name.removeprefix("model.").startswith(wrapper.left_out):
                continue
            plain = _unwrapped(name, wrapper, root)
            first = self._names.setdefault(plain, name)
            if first != name:
                raise InputError(f"the tensors '{first}' and '{name}' are both '{plain}'; remove one")

    def dtypes(self) -> dict[str, torch.dtype]:
        dtypes = self._reader.dtypes()
        return {plain: dtypes[name] for plain, name in self._names.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = self._reader.shapes()
        return {plain: shapes[name] for plain, name in self._names.items()}

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        wanted = {self._names[plain]: plain for plain in names}
        return {wanted[name]: tensor for name, tensor in self._reader.read(wanted).items()}


def with_prefix(reader: WeightReader, family: Family) -> WeightReader:
    """The reader of a family's checkpoint, whose names may all have another first part.

    Nemotron-H's own checkpoints have another one, and GPT-2's have none.
    """
    prefix = family.names["layer"].partition(".")[0] + "."
    if any(name.startswith(prefix) for name in reader.shapes()):
        return reader
    left_out = () if family.other_root else ("lm_head.",)
    return LanguagePart(reader, Wrapper("", prefixes=(family.other_root,), left_out=left_out), prefix)


def _unwrapped(name: str, wrapper: Wrapper, root: str) -> str:
    for prefix in wrapper.prefixes:
        if name.startswith(prefix):
            return root + name.removeprefix(prefix)
    return name.removeprefix("language_model.")
