"""Matrices of all experts of a mixture, as checkpoints store them: one by one, or in one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from seap_export.families.names import ROUTED, Projection
from seap_export.families.spec import ModelSpec
from seap_export.families.sublayers import Experts

__all__ = ["Joint", "Stacked", "stacked_projections"]


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
        """How many there are."""
        return len(self.parts)

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """The shape of a part, given that of the whole."""
        return tuple(size // len(self.parts) if axis == self.axis else size for axis, size in enumerate(plain))

    def plain(self, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The whole."""
        return torch.cat([stored[part] for part in self.parts], self.axis)

    def of_expert(self, stored: Mapping[str, torch.Tensor], expert: int) -> torch.Tensor:
        """The matrix of one expert, [out, in]."""
        return stored[self.parts[expert]]

    def split(self, plain: torch.Tensor) -> dict[str, torch.Tensor]:
        """The stored tensors."""
        parts = plain.chunk(len(self.parts), self.axis)
        return {name: part.contiguous() for name, part in zip(self.parts, parts, strict=True)}


@dataclass(frozen=True)
class Joint:
    """A tensor of the plain form that is stored in one of all experts, [experts, out, in], maybe beside another.

    Attributes:
        parts: The name of the stored tensor.
        axis: As for `Stacked`.
        experts: How many there are.
        index: Of how many tensors beside each other, along `out`, which it is.
        number: How many these are.
    """

    parts: tuple[str]
    axis: int
    experts: int
    index: int = 0
    number: int = 1

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """The shape of the stored tensor, given that of this one."""
        out, inputs = (size // self.experts if axis == self.axis else size for axis, size in enumerate(plain))
        return self.experts, self.number * out, inputs

    def plain(self, stored: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """This tensor."""
        matrices = stored[self.parts[0]].chunk(self.number, 1)[self.index]
        return matrices.transpose(0, 1).flatten(1) if self.axis else matrices.flatten(0, 1)

    def of_expert(self, stored: Mapping[str, torch.Tensor], expert: int) -> torch.Tensor:
        """The matrix of one expert, [out, in]."""
        return stored[self.parts[0]][expert].chunk(self.number)[self.index]

    def split(self, plain: torch.Tensor) -> dict[str, torch.Tensor]:
        """Its part of the stored tensor."""
        sizes = (self.experts, -1)
        matrices = plain.unflatten(1, sizes).transpose(0, 1) if self.axis else plain.unflatten(0, sizes)
        return {self.parts[0]: matrices}


def stacked_projections(spec: ModelSpec, layer: int) -> dict[Projection, Stacked | Joint]:
    """The weights of a layer's experts, as the family's checkpoints store them."""
    stacked: dict[Projection, Stacked | Joint] = {}
    for sublayer in spec.layers[layer].sublayers:
        if isinstance(sublayer, Experts):
            for projection in ROUTED[1:]:
                stacked[projection] = _stored(spec, layer, projection, sublayer)
    return stacked


def _stored(spec: ModelSpec, layer: int, projection: Projection, experts: Experts) -> Stacked | Joint:
    axis, both = int(projection == experts.output), "experts_gate_up_proj"
    if not axis and both in spec.family.names:
        name = spec.family.stored(both, layer) + ".weight"
        return Joint((name,), axis, experts.num_experts, ROUTED.index(projection) - 1, 2)
    name = spec.family.stored(projection, layer) + ".weight"
    parts = tuple(name.format(expert=expert) for expert in range(experts.num_experts))
    return Stacked(parts, axis) if "{expert}" in name else Joint((name,), axis, experts.num_experts)
