"""Brings a family's checkpoints to the plain form when they are read, and back when they are written.

In the plain form projections stand apart and norm weights are full gains; `families.names` has its names. The stored
form is what the family's transformers class loads.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.model.families import ModelSpec, names
from seap_export.model.families.family import FUSED
from seap_export.model.families.fused import Rows, fused_rows
from seap_export.model.families.stacked import Joint, Stacked, stacked_biases, stacked_projections
from seap_export.model.families.sublayers import V_NORM
from seap_export.model.sources.weights import WeightReader

_Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Rows:
    """Where a tensor of the plain form is stored: in rows of a stored tensor, whose numbers lack the offset."""

    stored: str
    rows: Rows | None = None
    offset: float = 0.0
    is_transposed: bool = False
    is_row: bool = False


class StoredForm:
    """The stored form of a model, dense or pruned; gains of norms that have no weight are 1 and not stored.

    Attributes:
        shapes: Name and shape of every stored tensor, in the order of use.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._spec, self._family = spec, spec.family
        self._parts: dict[str, _Rows] = {}
        self._ones: dict[str, torch.Tensor] = {}
        self._stacked: dict[str, Stacked | Joint] = {}
        shapes = spec.outer_tensors()
        for name in spec.outer_names:
            if name == "norm":
                self._append_gain(name, None, shapes)
            else:
                self._append(name, None, shapes)
        for layer in range(len(spec.layers)):
            shapes = spec.layer_tensors(layer)
            self._append_inner(layer, shapes)
            self._append_projections(layer, shapes)
        # In the order of use, which is that of the plain form.
        self.shapes = {stored: self.shapes[stored] for stored in self.holders(spec.tensors())}

    def _append_inner(self, layer: int, shapes: _Shapes) -> None:
        """Appends the tensors of a layer that are not projections."""
        experts, offset = self._family.experts, self._family.block.norm_offset
        for sublayer in self._spec.layers[layer].sublayers:
            for norm in sublayer.norms:
                gain, *bias = self._spec.norm_parts(norm)
                self._append_gain(gain, layer, shapes)
                for part in bias:
                    self._append(part, layer, shapes)
            for inner in sublayer.inner_norms():
                if inner == V_NORM:
                    self._append_ones(names.tensor(inner, layer), shapes)
                else:
                    self._append(inner, layer, shapes, offset)
            if sublayer.scales_stream:
                self._append(names.STREAM_SCALE, layer, shapes)
            for name in sublayer.inner_tensors():
                is_row = name == "selection_bias" and experts is not None and experts.bias_is_row
                self._append(name, layer, shapes, is_row=is_row)

    def _append_projections(self, layer: int, shapes: _Shapes) -> None:
        spec, family = self._spec, self._family
        stacked = stacked_projections(spec, layer)
        of_experts = {names.weight(projection, layer): whole for projection, whole in stacked.items()}
        biases = stacked_biases(spec, layer).items()
        of_experts |= {names.bias(projection, layer): whole for projection, whole in biases}
        for plain, whole in of_experts.items():
            self._stacked[plain] = whole
            self.shapes |= dict.fromkeys(whole.parts, whole.shape(shapes[plain]))
        stored_as = {part: fused for fused in family.fused for part in FUSED[fused]}
        projections = spec.layers[layer].projections
        rows = fused_rows(
            family, spec.layers[layer], {name: spec.projection_shape(name, layer)[0] for name in projections}
        )
        for projection in projections:
            if projection in stacked:
                continue
            stored = family.stored(stored_as.get(projection, projection), layer)
            for suffix in (".weight", ".bias"):
                if (plain := names.tensor(projection, layer) + suffix) in shapes:
                    self._append_projection(plain, shapes[plain], stored + suffix, rows.get(projection))

    def _append_gain(self, name: str, layer: int | None, shapes: _Shapes) -> None:
        if self._family.block.norm_weight:
            self._append(name, layer, shapes, self._family.block.norm_offset)
        else:
            self._append_ones(names.tensor(name, layer), shapes)

    def _append_ones(self, plain: str, shapes: _Shapes) -> None:
        self._ones[plain] = torch.ones(shapes[plain])

    def _append(
        self, name: str, layer: int | None, shapes: _Shapes, offset: float = 0.0, *, is_row: bool = False
    ) -> None:
        stored, plain = self._family.stored(name, layer), names.tensor(name, layer)
        self._parts[plain] = _Rows(stored, offset=offset, is_row=is_row)
        self.shapes[stored] = (1, *shapes[plain]) if is_row else shapes[plain]

    def _append_projection(self, plain: str, shape: tuple[int, ...], stored: str, rows: Rows | None) -> None:
        """Appends a weight or bias, which may be some rows of a stored one."""
        is_transposed = self._family.transposed and len(shape) == 2
        self._parts[plain] = _Rows(stored, rows, is_transposed=is_transposed)
        before = self.shapes.get(stored, (0,))[-1 if is_transposed else 0] if rows is not None else 0
        whole = (before + shape[0], *shape[1:])
        self.shapes[stored] = whole[::-1] if is_transposed else whole

    def is_stacked(self, plain: str) -> bool:
        """Whether a tensor of the plain form is made of those of all experts."""
        return plain in self._stacked

    def is_transposed(self, stored: str) -> bool:
        """Whether a stored tensor is a matrix with its inputs first, or such matrices."""
        stacked = (whole for whole in self._stacked.values() if stored in whole.parts)
        return any(isinstance(whole, Joint) and whole.inputs_first for whole in stacked) or any(
            part.is_transposed for part in self._parts.values() if part.stored == stored
        )

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
                tensors[name] = self._stacked[name].plain(stored)
                continue
            part = self._parts[name]
            rows = _transposed(stored[part.stored]) if part.is_transposed else stored[part.stored]
            rows = rows.squeeze(0) if part.is_row else rows
            rows = rows if part.rows is None else rows[part.rows]
            tensors[name] = rows.double() + part.offset if part.offset else rows
        return tensors

    def to_stored(self, plain: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The stored tensors, given all tensors of the plain form that they hold."""
        tensors: dict[str, torch.Tensor] = {}
        matrices: dict[str, list[torch.Tensor]] = {}
        holders: dict[str, Stacked | Joint] = {}
        for name in (name for name in self._stacked if name in plain):
            for stored, tensor in self._stacked[name].split(plain[name]).items():
                matrices.setdefault(stored, []).append(tensor)
                holders[stored] = self._stacked[name]
        tensors |= {stored: holders[stored].joined(parts) for stored, parts in matrices.items()}
        pieces: dict[str, list[tuple[_Rows, torch.Tensor]]] = {}
        for name in (name for name in plain if name in self._parts):
            part = self._parts[name]
            pieces.setdefault(part.stored, []).append((part, plain[name]))
        return tensors | {stored: _joined(parts) for stored, parts in pieces.items()}


def _transposed(matrix: torch.Tensor) -> torch.Tensor:
    """A copy, since a matrix with a single column counts as contiguous whatever its strides are."""
    return matrix.T.clone(memory_format=torch.contiguous_format)


def _joined(parts: Sequence[tuple[_Rows, torch.Tensor]]) -> torch.Tensor:
    """The stored tensor of these parts, which are all of it."""
    first, tensor = parts[0]
    if first.rows is not None:
        numbers = torch.arange(sum(len(rows) for _, rows in parts))
        rows = [numbers[part.rows] for part, _ in parts]
        in_order = sorted(range(len(parts)), key=lambda index: int(rows[index][0]))
        tensor = torch.cat([parts[index][1] for index in in_order])
        if not isinstance(first.rows, slice):
            tensor = tensor[torch.cat([rows[index] for index in in_order]).argsort()]
    if first.is_transposed:
        tensor = _transposed(tensor)
    if first.is_row:
        tensor = tensor.unsqueeze(0)
    return tensor.double() - first.offset if first.offset else tensor


class PlainReader:
    """A `WeightReader` of the plain form, over one of the stored form."""

    def __init__(self, reader: WeightReader, spec: ModelSpec) -> None:
        self._reader, self._form = reader, StoredForm(spec)
        self._shapes = spec.tensors()

    def dtypes(self) -> dict[str, torch.dtype]:
        """The floating-point dtype in which a copy of each tensor is stored, for those that are stored."""
        stored = self._reader.dtypes()
        holders = {name: self._form.holders([name]) for name in self._shapes}
        return {
            name: functools.reduce(torch.promote_types, (stored[one] for one in of_name))
            for name, of_name in holders.items()
            if of_name
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self._shapes)

    def read(self, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
        """Reads the named tensors, mapped from the file where they need no conversion."""
        plain = list(wanted)
        tensors = self._form.to_plain(plain, self._reader.read(self._form.holders(plain)))
        if any(self._form.is_stacked(name) for name in plain):  # which are copies: without others, the file is let go
            return {name: one if self._form.is_stacked(name) else one.clone() for name, one in tensors.items()}
        return tensors
