"""Inputs of a layer, which all stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.families import LayerInput
from seap_export.plan.sublayers.channels import ChannelOptions
from seap_export.plan.sublayers.kept import Kept, sorted_indices

__all__ = ["KeptInputs", "LayerInputOptions"]


@dataclass(frozen=True)
class KeptInputs(Kept):
    """The kept inputs, sorted."""

    kind, name = LayerInput, "layer input"
    unit, panel = "inputs", ("inputs of layers", "input")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "hidden_size_per_layer_input": ("inputs", "inputs of a layer")
    }

    layer_inputs: tuple[int, ...]

    def __post_init__(self) -> None:
        sorted_indices(layer_inputs=self.layer_inputs)

    @property
    def units(self) -> tuple[int, ...]:
        """The inputs."""
        return self.layer_inputs

    @property
    def sizes(self) -> dict[str, int]:
        """Their number."""
        return {"hidden_size_per_layer_input": len(self.layer_inputs)}


class LayerInputOptions(ChannelOptions[LayerInput]):
    """Numbers of inputs."""

    kept_type = KeptInputs
    scores_name = "layer_inputs"
    size_key = "hidden_size_per_layer_input"
    tensor_names = ("layer_input_order", "layer_input_loss")

    def _kept(self, channels: tuple[int, ...]) -> KeptInputs:
        return KeptInputs(channels)
