"""What a kind of sublayer computes its channels with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from seap_export.model.families.names import Projection


def stream_of(hidden: torch.Tensor, hidden_size: int) -> torch.Tensor:
    """The residual stream in hidden states [..., width], whose first columns it is."""
    return hidden if hidden.shape[-1] == hidden_size else hidden[..., :hidden_size]


#: What `Operands.see` calls the neurons of one expert and what it writes, before the router weights them.
CHANNELS, PRODUCT = "channels", "product"


class Operands(Protocol):
    """The tensors of a layer."""

    @property
    def epsilon(self) -> float:
        """Of norms."""

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
        """What the sublayer of an output projection reads of the stream, through its norm if there is one."""

    def linear(
        self, projection: Projection, x: torch.Tensor, rows: slice | None = None, columns: slice | None = None
    ) -> torch.Tensor:
        """The product of a projection with its input, with bias and factor, [..., out]; of a part of it, or all."""

    def weight(self, projection: Projection) -> torch.Tensor:
        """The weight of a projection, float32 [out, in]."""

    def tensor(self, name: str) -> torch.Tensor | None:
        """A tensor by its name in the plain form, such as `q_norm`; None: the layer has none."""

    def see(self, what: str, values: Callable[[], torch.Tensor]) -> None:
        """Shows values in between to whoever looks at them: what they are, and how to compute them."""
