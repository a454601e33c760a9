"""The MLP: neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.families import Mlp
from seap_export.plan.sublayers.channels import ChannelOptions
from seap_export.plan.sublayers.kept import Kept, sorted_indices

__all__ = ["KeptNeurons", "NeuronOptions"]


@dataclass(frozen=True)
class KeptNeurons(Kept):
    """The kept neurons, sorted."""

    kind, name = Mlp, "MLP"
    unit, panel = "neurons", ("MLP neurons", "neuron")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {"intermediate_size": ("neurons", "MLP neurons")}

    neurons: tuple[int, ...]

    def __post_init__(self) -> None:
        sorted_indices(neurons=self.neurons)

    @property
    def units(self) -> tuple[int, ...]:
        """The neurons."""
        return self.neurons

    @property
    def sizes(self) -> dict[str, int]:
        """Their number."""
        return {"intermediate_size": len(self.neurons)}


class NeuronOptions(ChannelOptions[Mlp]):
    """Numbers of neurons."""

    kept_type = KeptNeurons
    scores_name = "neurons"
    size_key = "intermediate_size"
    tensor_names = ("neuron_order", "neuron_loss")

    def _kept(self, channels: tuple[int, ...]) -> KeptNeurons:
        return KeptNeurons(channels)
