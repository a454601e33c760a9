"""The MLP: neurons that are independent of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from seap_export.errors import InputError
from seap_export.model.families.names import Norm, Projection
from seap_export.model.families.sublayers.sublayer import Sublayer

Activation = Literal["silu", "gelu_tanh", "gelu", "relu", "relu2", "sigmoid"]


@dataclass(frozen=True, kw_only=True)
class Mlp(Sublayer):
    """An MLP, gated or plain: its channels are act(gate(x)) * up(x) or act(up(x)).

    Attributes:
        intermediate_size: Number of neurons.
        activation: Activation of the gate, or of a plain MLP's neurons; `relu2` is the square of `relu`.
        is_gated: Whether there is a gate.
    """

    output: ClassVar[Projection] = "down_proj"
    noun: ClassVar[str] = "an MLP"
    label: ClassVar[str] = "mlp"
    size_keys: ClassVar[tuple[str, ...]] = ("intermediate_size",)
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("post_attention_layernorm", "post_mlp_layernorm")

    intermediate_size: int
    activation: Activation = "silu"
    is_gated: bool = True

    def __post_init__(self) -> None:
        if self.intermediate_size < 1:
            raise InputError("an MLP needs at least one neuron")

    @property
    def readers(self) -> tuple[Projection, ...]:
        return ("gate_proj", "up_proj") if self.is_gated else ("up_proj",)

    @property
    def scalable(self) -> Projection | None:
        return "up_proj" if self.is_gated else None

    @property
    def channels(self) -> int:
        return self.intermediate_size

    def widths(self) -> Mapping[Projection, int]:
        return dict.fromkeys(self.readers, self.intermediate_size)
