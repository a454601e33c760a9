"""The inputs of a layer: a vector that each token brings to it besides its embedding, gated by the stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.errors import InputError
from seap_export.model.families.names import Norm, Projection
from seap_export.model.families.sublayers.mlp import Activation
from seap_export.model.families.sublayers.sublayer import Sublayer


@dataclass(frozen=True, kw_only=True)
class LayerInput(Sublayer):
    """The inputs of a layer: its channels are act(gate(x)) times the inputs, which depend on the token alone.

    Attributes:
        layer: The index of the layer.
    """

    output: ClassVar[Projection] = "layer_input_proj"
    noun: ClassVar[str] = "inputs of its own"
    label: ClassVar[str] = "layer_input"
    size_keys: ClassVar[tuple[str, ...]] = ("hidden_size_per_layer_input",)
    norms_around: ClassVar[tuple[Norm | None, Norm]] = (None, "post_layer_input_norm")

    layer: int
    hidden_size_per_layer_input: int
    activation: Activation = "silu"

    def __post_init__(self) -> None:
        if self.hidden_size_per_layer_input < 1:
            raise InputError("config.json: a layer needs at least one input; correct it, or download the model again")

    @property
    def readers(self) -> tuple[Projection, ...]:
        return ("layer_input_gate",)

    @property
    def channels(self) -> int:
        return self.hidden_size_per_layer_input

    @property
    def whole_because(self) -> str | None:
        return "one table has the inputs of all layers"

    def widths(self) -> Mapping[Projection, int]:
        return dict.fromkeys(self.readers, self.channels)
