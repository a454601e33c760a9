"""The shared expert: an MLP beside a mixture of experts, which computes every token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.errors import InputError
from seap_export.model.families.names import SHARED, Norm, Projection
from seap_export.model.families.sublayers.mlp import Activation
from seap_export.model.families.sublayers.sublayer import Sublayer


@dataclass(frozen=True, kw_only=True)
class SharedExpert(Sublayer):
    """A gated MLP, which may be scaled for each token by the sigmoid of one product, s(x).

    Its channels are s(x) act(gate(x)) * up(x).

    Attributes:
        shared_expert_intermediate_size: Number of neurons.
    """

    output: ClassVar[Projection] = "shared_down_proj"
    noun: ClassVar[str] = "a shared expert"
    label: ClassVar[str] = "shared_expert"
    size_keys: ClassVar[tuple[str, ...]] = ("shared_expert_intermediate_size",)
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("post_attention_layernorm", "post_mlp_layernorm")

    shared_expert_intermediate_size: int
    has_scale: bool = True
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        if self.shared_expert_intermediate_size < 1:
            raise InputError(
                "config.json: a shared expert needs at least one neuron; correct it, or download the model again"
            )

    @property
    def readers(self) -> tuple[Projection, ...]:
        return SHARED[:-1] if self.has_scale else SHARED[1:-1]

    @property
    def scalable(self) -> Projection | None:
        return "shared_up_proj"

    @property
    def channels(self) -> int:
        return self.shared_expert_intermediate_size

    def widths(self) -> Mapping[Projection, int]:
        return {name: 1 if name == "shared_gate" else self.channels for name in self.readers}
