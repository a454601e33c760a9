"""The interface through which a sublayer reads the tensors of its layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from seap_export.model.families.names import Projection


def stream_of(hidden: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """The residual stream in hidden states [..., width], whose first columns it is."""
    return hidden if hidden.shape[-1] == hidden_size else hidden[..., :hidden_size]


#: The names in `Operands.see` of one expert's neurons and of its output, before the router weights them.
CHANNELS, PRODUCT = "channels", "product"


class Operands(Protocol):
    """The tensors of a layer, and products with its projections."""

    @property
    def epsilon(self) -> float:
        """The epsilon of norms."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def inputs_of(self) -> Mapping[int, slice]:
        """The columns of hidden states with the inputs of each layer."""

    @property
    def cached_of(self) -> Mapping[int, slice]:
        """The columns of hidden states with the keys and values of each layer that lends them."""

    def read(self, output: Projection, stream: torch.Tensor) -> torch.Tensor:
        """The input of the sublayer with this output projection: the stream, through a norm if it has one."""

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        """The product of a projection with its input, with bias and factor, [..., out]; of a part of it, or all."""

    def weight(self, projection: Projection) -> torch.Tensor:
        """The weight of a projection, float32 [out, in]."""

    def tensor(self, name: str) -> torch.Tensor | None:
        """A tensor by its name in the plain form, such as `q_norm`; None: the layer has none."""

    def see(self, what: str, values: Callable[[], torch.Tensor]) -> None:
        """Shows intermediate values to an observer of the pass: their names, and how to compute them."""
