"""What a kind of sublayer computes its channels with."""

from __future__ import annotations

from typing import Protocol

import torch

from seap_export.families.names import Projection

__all__ = ["Operands"]


class Operands(Protocol):
    """The tensors of a layer."""

    @property
    def epsilon(self) -> float:
        """Of norms."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    def read(self, output: Projection, stream: torch.Tensor) -> torch.Tensor:
        """What the sublayer of an output projection reads of the stream, through its norm if there is one."""

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        """The product of a projection with its input, with bias and factor, [..., out]; of a part of it, or all."""

    def weight(self, projection: Projection) -> torch.Tensor:
        """The weight of a projection, float32 [out, in]."""

    def tensor(self, name: str) -> torch.Tensor | None:
        """A tensor by its name in the plain form, such as `q_norm`; None: the layer has none."""
