"""Matrices of all experts of a mixture, as checkpoints store them: one by one, or in one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.model.families.names import ROUTED, Projection
from seap_export.model.families.spec import ModelSpec
from seap_export.model.families.sublayers import Experts


@dataclass(frozen=True)
class Stacked:
    """A tensor of the plain form that is stored in equal parts.

    Attributes:
        parts: The names of the stored tensors, in their order.
        axis: Along which they are joined: 0 if they are rows of the tensor, 1 if they are columns.
    """

    parts: tuple[str, ...]
    axis: int

    @property
    def experts(self) -> int:
        return len(self.parts)

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """The shape of a part, given that of the whole."""
        return tuple(size // len(self.parts) if axis == self.axis else size for axis, size in enumerate(plain))

    def plain(self, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor of the plain form, joined from the stored parts."""
        return torch.cat([stored[part] for part in self.parts], self.axis)

    def of_expert(self, stored: Mapping[str, torch.Tensor], expert: int) -> torch.Tensor:
        """The matrix of one expert, [out, in]."""
        return stored[self.parts[expert]]

    def split(self, plain: torch.Tensor) -> dict[str, torch.Tensor]:
        """The stored parts of a tensor of the plain form, by name."""
        return dict(zip(self.parts, plain.chunk(len(self.parts), self.axis), strict=True))

    def joined(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """A stored tensor, given its only piece."""
        return pieces[0].contiguous()


@dataclass(frozen=True)
class Joint:
    """A tensor of the plain form that is stored in one for all experts, [experts, out, in], maybe beside another.

    A bias is stored as [experts, out].

    Attributes:
        parts: The name of the stored tensor.
        axis: As for `Stacked`.
        experts: How many there are.
        index: Its place among the tensors that stand beside each other along `out`.
        number: How many tensors stand beside each other.
        inputs_first: Whether the stored tensor is [experts, in, out], and those beside each other take turns.
    """

    parts: tuple[str]
    axis: int
    experts: int
    index: int = 0
    number: int = 1
    inputs_first: bool = False

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """The shape of the stored tensor, given that of the tensor of the plain form."""
        out, *inputs = (size // self.experts if axis == self.axis else size for axis, size in enumerate(plain))
        sizes = [self.number * out, *inputs]
        return self.experts, *(reversed(sizes) if self.inputs_first else sizes)

    def plain(self, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The tensor of the plain form, cut out of the stored one."""
        whole = stored[self.parts[0]]
        if self.inputs_first:
            rows = whole.transpose(1, -1) if whole.dim() > 2 else whole
            matrices = rows.unflatten(1, (-1, self.number))[:, :, self.index]
        else:
            matrices = whole.chunk(self.number, 1)[self.index]
        return matrices.transpose(0, 1).flatten(1) if self.axis else matrices.flatten(0, 1)

    def of_expert(self, stored: Mapping[str, torch.Tensor], expert: int) -> torch.Tensor:
        """The matrix of one expert, [out, in]."""
        return stored[self.parts[0]][expert].chunk(self.number)[self.index]

    def split(self, plain: torch.Tensor) -> dict[str, torch.Tensor]:
        """Its piece of the stored tensor, given the tensor of the plain form."""
        sizes = (self.experts, -1)
        matrices = plain.unflatten(1, sizes).transpose(0, 1) if self.axis else plain.unflatten(0, sizes)
        return {self.parts[0]: matrices}

    def joined(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        """The stored tensor, given the pieces of all tensors in it, in order."""
        if not self.inputs_first:
            return torch.cat([*pieces], 1)
        rows = torch.stack([*pieces], 2).flatten(1, 2)
        return (rows.transpose(1, 2) if rows.dim() > 2 else rows).contiguous()


def stacked_projections(spec: ModelSpec, layer: int) -> dict[Projection, Stacked | Joint]:
    """The weights of a layer's experts, as the family's checkpoints store them."""
    stacked: dict[Projection, Stacked | Joint] = {}
    for sublayer in spec.layers[layer].sublayers:
        if isinstance(sublayer, Experts):
            for projection in ROUTED[1:]:
                stacked[projection] = _stored(spec, layer, projection, sublayer)
    return stacked


def stacked_biases(spec: ModelSpec, layer: int) -> dict[Projection, Stacked | Joint]:
    """The biases of gate and up of a layer's experts, as the family's checkpoints store them."""
    every = (sublayer for sublayer in spec.layers[layer].sublayers if isinstance(sublayer, Experts))
    return {
        projection: _stored(spec, layer, projection, experts, is_bias=True)
        for experts in every
        for projection in experts.readers[1:]
        if projection in experts.biases
    }


def _stored(
    spec: ModelSpec, layer: int, projection: Projection, experts: Experts, *, is_bias: bool = False
) -> Stacked | Joint:
    axis, both, rules = int(projection == experts.output), "experts_gate_up_proj", spec.family.experts
    assert rules is not None
    inputs_first = rules.inputs_first
    # parameters have no module of their own
    suffix = ("_bias" if is_bias else "") if rules.are_parameters else (".bias" if is_bias else ".weight")
    if not axis and both in spec.family.names:
        name, index = spec.family.stored(both, layer) + suffix, ROUTED.index(projection) - 1
        return Joint((name,), axis, experts.num_experts, index, 2, inputs_first)
    name = spec.family.stored(projection, layer) + suffix
    parts = tuple(name.format(expert=expert) for expert in range(experts.num_experts))
    is_joint = "{expert}" not in name
    return Joint((name,), axis, experts.num_experts, inputs_first=inputs_first) if is_joint else Stacked(parts, axis)
