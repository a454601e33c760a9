"""Tensors of all experts of a mixture, which a checkpoint stores one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seap_export.families.names import ROUTED, Projection
from seap_export.families.spec import ModelSpec
from seap_export.families.sublayers import Experts

__all__ = ["Stacked", "stacked_projections"]


@dataclass(frozen=True)
class Stacked:
    """A tensor of the plain form that is stored in equal parts.

    Attributes:
        parts: The names of the stored tensors, in their order.
        axis: Along which they are joined: 0 if they are rows of the tensor, 1 if they are columns.
    """

    parts: tuple[str, ...]
    axis: int

    def shape(self, plain: Sequence[int]) -> tuple[int, ...]:
        """The shape of a part, given that of the whole."""
        return tuple(size // len(self.parts) if axis == self.axis else size for axis, size in enumerate(plain))


def stacked_projections(spec: ModelSpec, layer: int) -> dict[Projection, Stacked]:
    """The weights of a layer's experts, as the family's checkpoints store them."""
    stacked: dict[Projection, Stacked] = {}
    for sublayer in spec.layers[layer].sublayers:
        if isinstance(sublayer, Experts):
            for projection in ROUTED[1:]:
                stored = spec.family.stored(projection, layer) + ".weight"
                parts = tuple(stored.format(expert=expert) for expert in range(sublayer.num_experts))
                stacked[projection] = Stacked(parts, axis=int(projection == sublayer.output))
    return stacked
