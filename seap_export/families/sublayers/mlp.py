"""The MLP: neurons that are independent of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from seap_export.errors import InputError
from seap_export.families.names import Norm, Projection
from seap_export.families.sublayers.sublayer import Sublayer

__all__ = ["Activation", "Mlp"]

Activation = Literal["silu", "gelu_tanh"]


@dataclass(frozen=True, kw_only=True)
class Mlp(Sublayer):
    """A gated MLP: its channels are act(gate(x)) * up(x).

    Attributes:
        intermediate_size: Number of neurons.
        activation: Of the gate.
    """

    output: ClassVar[Projection] = "down_proj"
    label: ClassVar[str] = "mlp"
    size_keys: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    norms_around: ClassVar[tuple[Norm, Norm]] = ("post_attention_layernorm", "post_mlp_layernorm")

    intermediate_size: int
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        if self.intermediate_size < 1:
            raise InputError("an MLP needs at least one neuron")
        if self.activation not in get_args(Activation):
            raise InputError(f"activation '{self.activation}' is not supported; use a model with silu or gelu_tanh")

    @property
    def readers(self) -> tuple[Projection, ...]:
        """Gate and up."""
        return ("gate_proj", "up_proj")

    @property
    def scalable(self) -> Projection | None:
        """The gated one."""
        return "up_proj"

    @property
    def channels(self) -> int:
        """One for each neuron."""
        return self.intermediate_size

    def widths(self) -> Mapping[Projection, int]:
        """The neurons."""
        return dict.fromkeys(self.readers, self.intermediate_size)
