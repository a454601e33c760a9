"""Brings a family's checkpoints to the plain form when they are read, and back when they are written.

In the plain form projections stand apart and norm weights are full gains; `families.names` has its names. The stored
form is what the family's transformers class loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from seap_export.families import ModelSpec, names
from seap_export.families.family import FUSED
from seap_export.sources.weights import WeightReader

__all__ = ["PlainReader", "StoredForm"]


@dataclass(frozen=True)
class _Rows:
    """Where a tensor of the plain form is stored: in rows of a stored tensor, whose numbers lack the offset."""

    stored: str
    rows: slice
    offset: float


class StoredForm:
    """The stored form of a model, dense or pruned.

    Attributes:
        shapes: Name and shape of every stored tensor, in the order of use.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, _Rows] = {}
        family, offset = spec.family, spec.family.block.norm_offset
        shapes = spec.outer_tensors()
        for name in spec.outer_names:
            plain = names.tensor(name)
            self._append(plain, shapes[plain], family.stored(name), offset if name == "norm" else 0.0)
        stored_as = {part: fused for fused in family.fused for part in FUSED[fused]}
        for layer in range(len(spec.layers)):
            shapes = spec.layer_tensors(layer)
            for sublayer in spec.layers[layer].sublayers:
                for norm in (*sublayer.norms, *sublayer.inner_norms()):
                    plain = names.tensor(norm, layer)
                    self._append(plain, shapes[plain], family.stored(norm, layer), offset)
            for projection in spec.layers[layer].projections:
                stored = family.stored(stored_as.get(projection, projection), layer)
                for suffix in (".weight", ".bias"):
                    if (plain := names.tensor(projection, layer) + suffix) in shapes:
                        self._append(plain, shapes[plain], stored + suffix, 0.0)
        # In the order of use, which is that of the plain form.
        order = dict.fromkeys(self._parts[plain].stored for plain in spec.tensors())
        self.shapes = {stored: self.shapes[stored] for stored in order}

    def _append(self, plain: str, shape: tuple[int, ...], stored: str, offset: float) -> None:
        """Appends a tensor to the rows of a stored one, which it may be the first of."""
        start = self.shapes.get(stored, (0,))[0]
        self._parts[plain] = _Rows(stored, slice(start, start + shape[0]), offset)
        self.shapes[stored] = (start + shape[0], *shape[1:])

    def holders(self, plain: Iterable[str]) -> list[str]:
        """The stored tensors that hold those of the plain form, in the order of use."""
        return list(dict.fromkeys(self._parts[name].stored for name in plain))

    def to_plain(self, plain: Iterable[str], stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of the plain form, given the stored ones that hold them.

        Gains of norms that are stored with an offset are float64, so that the sum is exact.
        """
        tensors = {}
        for name in plain:
            part = self._parts[name]
            rows = stored[part.stored]
            if part.rows != slice(0, len(rows)):
                rows = rows[part.rows]
            tensors[name] = rows.double() + part.offset if part.offset else rows
        return tensors

    def to_stored(self, plain: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stored tensors, given all tensors of the plain form that they hold."""
        pieces: dict[str, list[torch.Tensor]] = {}
        for name, tensor in sorted(plain.items(), key=lambda item: self._parts[item[0]].rows.start):
            part = self._parts[name]
            pieces.setdefault(part.stored, []).append(tensor.double() - part.offset if part.offset else tensor)
        return {name: parts[0] if len(parts) == 1 else torch.cat(parts) for name, parts in pieces.items()}


class PlainReader:
    """A `WeightReader` of the plain form, over one of the stored form."""

    def __init__(self, reader: WeightReader, spec: ModelSpec) -> None:
        self._reader, self._form = reader, StoredForm(spec)
        self._shapes = spec.tensors()

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point dtype in which a copy of these weights is stored."""
        return self._reader.dtype

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        return dict(self._shapes)

    def read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors, mapped from the file where they need no conversion."""
        plain = list(wanted)
        return self._form.to_plain(plain, self._reader.read(self._form.holders(plain)))
