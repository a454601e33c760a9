"""Brings a family's checkpoints to the plain form when they are read, and back when they are written.

In the plain form projections stand apart and norm weights are full gains; `families.names` has its names. The stored
form is what the family's transformers class loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from seap_export.families import ModelSpec, names
from seap_export.families.family import FUSED, INTERLEAVED
from seap_export.families.stacked import Stacked, stacked_projections
from seap_export.sources.weights import WeightReader

__all__ = ["PlainReader", "StoredForm"]


@dataclass(frozen=True)
class _Rows:
    """Where a tensor of the plain form is stored: in rows of a stored tensor, whose numbers lack the offset.

    The rows are those of the parts one after the other, in whatever order they are stored.
    """

    stored: str
    rows: slice
    offset: float


class StoredForm:
    """The stored form of a model, dense or pruned; gains of norms that have no weight are 1 and not stored.

    Attributes:
        shapes: Name and shape of every stored tensor, in the order of use.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, _Rows] = {}
        self._ones: dict[str, torch.Tensor] = {}
        self._stacked: dict[str, Stacked] = {}
        self._orders: dict[str, torch.Tensor] = {}
        family, offset = spec.family, spec.family.block.norm_offset
        shapes = spec.outer_tensors()
        for name in spec.outer_names:
            plain = names.tensor(name)
            if name == "norm":
                self._append_gain(spec, plain, family.stored(name))
            else:
                self._append(plain, shapes[plain], family.stored(name))
        stored_as = {part: fused for fused in family.fused for part in FUSED[fused]}
        for layer in range(len(spec.layers)):
            shapes = spec.layer_tensors(layer)
            for sublayer in spec.layers[layer].sublayers:
                for norm in sublayer.norms:
                    gain, *bias = spec.norm_parts(norm)
                    self._append_gain(spec, names.tensor(gain, layer), family.stored(gain, layer))
                    for part in bias:
                        self._append(names.tensor(part, layer), (spec.hidden_size,), family.stored(part, layer))
                for inner in sublayer.inner_norms():
                    plain = names.tensor(inner, layer)
                    self._append(plain, shapes[plain], family.stored(inner, layer), offset)
                for name in sublayer.inner_tensors():
                    plain = names.tensor(name, layer)
                    self._append(plain, shapes[plain], family.stored(name, layer))
            stacked = stacked_projections(spec, layer)
            for projection, whole in stacked.items():
                plain = names.weight(projection, layer)
                self._stacked[plain] = whole
                self.shapes |= dict.fromkeys(whole.parts, whole.shape(shapes[plain]))
            for projection in spec.layers[layer].projections:
                if projection in stacked:
                    continue
                stored = family.stored(stored_as.get(projection, projection), layer)
                for suffix in (".weight", ".bias"):
                    if (plain := names.tensor(projection, layer) + suffix) in shapes:
                        self._append(plain, shapes[plain], stored + suffix)
            self._interleave(spec, layer)
        # In the order of use, which is that of the plain form.
        self.shapes = {stored: self.shapes[stored] for stored in self.holders(spec.tensors())}

    def _interleave(self, spec: ModelSpec, layer: int) -> None:
        """Notes the order of the rows of tensors whose parts take turns, a head's rows each."""
        for fused in (name for name in spec.family.fused if name in INTERLEAVED):
            parts = FUSED[fused]
            for sublayer in (one for one in spec.layers[layer].sublayers if parts[0] in one.projections):
                for suffix in (".weight", ".bias"):
                    stored = spec.family.stored(fused, layer) + suffix
                    if stored in self.shapes:
                        rows = torch.arange(self.shapes[stored][0]).view(len(parts), -1, sublayer.unit)
                        self._orders[stored] = rows.transpose(0, 1).flatten()

    def _append_gain(self, spec: ModelSpec, plain: str, stored: str) -> None:
        if spec.family.block.norm_weight:
            self._append(plain, (spec.hidden_size,), stored, spec.family.block.norm_offset)
        else:
            self._ones[plain] = torch.ones(spec.hidden_size)

    def _append(self, plain: str, shape: tuple[int, ...], stored: str, offset: float = 0.0) -> None:
        """Appends a tensor to the rows of a stored one, which it may be the first of."""
        if plain in self._parts:  # a norm that two sublayers read through
            return
        start = self.shapes.get(stored, (0,))[0]
        self._parts[plain] = _Rows(stored, slice(start, start + shape[0]), offset)
        self.shapes[stored] = (start + shape[0], *shape[1:])

    def holders(self, plain: Iterable[str]) -> list[str]:
        """The stored tensors that hold those of the plain form, in the order of use."""
        return list(dict.fromkeys(stored for name in plain for stored in self._holders_of(name)))

    def _holders_of(self, plain: str) -> tuple[str, ...]:
        if plain in self._stacked:
            return self._stacked[plain].parts
        return (self._parts[plain].stored,) if plain in self._parts else ()

    def to_plain(self, plain: Iterable[str], stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Tensors of the plain form, given the stored ones that hold them.

        Gains of norms that are stored with an offset are float64, so that the sum is exact.
        """
        tensors = {}
        for name in plain:
            if name in self._ones:
                tensors[name] = self._ones[name]
                continue
            if name in self._stacked:
                whole = self._stacked[name]
                tensors[name] = torch.cat([stored[part] for part in whole.parts], whole.axis)
                continue
            part = self._parts[name]
            rows = stored[part.stored]
            if part.stored in self._orders:
                rows = rows[self._orders[part.stored].argsort()]
            if part.rows != slice(0, len(rows)):
                rows = rows[part.rows]
            tensors[name] = rows.double() + part.offset if part.offset else rows
        return tensors

    def to_stored(self, plain: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stored tensors, given all tensors of the plain form that they hold."""
        tensors: dict[str, torch.Tensor] = {}
        for name in plain.keys() & self._stacked.keys():
            whole = self._stacked[name]
            parts = plain[name].chunk(len(whole.parts), whole.axis)
            tensors |= {part: tensor.contiguous() for part, tensor in zip(whole.parts, parts, strict=True)}
        pieces: dict[str, list[torch.Tensor]] = {}
        placed = ((self._parts[name], tensor) for name, tensor in plain.items() if name in self._parts)
        for part, tensor in sorted(placed, key=lambda item: item[0].rows.start):
            pieces.setdefault(part.stored, []).append(tensor.double() - part.offset if part.offset else tensor)
        for name, rows in pieces.items():
            joined = rows[0] if len(rows) == 1 else torch.cat(rows)
            tensors[name] = joined[self._orders[name]] if name in self._orders else joined
        return tensors


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
