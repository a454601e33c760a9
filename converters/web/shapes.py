"""A model's shapes without its weights, from which a graph can be laid out but not written."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from seap_export.families import ModelSpec

__all__ = ["ShapesAlone"]


class ShapesAlone:
    """A reader of the plain form whose tensors are zeros; none that is larger than a vector is made.

    Args:
        spec: The model's shapes.
    """

    dtype = torch.float32

    def __init__(self, spec: ModelSpec) -> None:
        self._shapes = spec.tensors()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor."""
        return dict(self._shapes)

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Zeros that take no memory."""
        return {name: torch.zeros(()).expand(self._shapes[name]) for name in names}
