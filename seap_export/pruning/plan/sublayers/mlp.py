"""How MLPs are planned: any number of neurons can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.model.families import Mlp
from seap_export.pruning.plan.sublayers.channels import ChannelOptions, KeptChannels


@dataclass(frozen=True)
class KeptNeurons(KeptChannels):
    """The kept neurons of an MLP, sorted."""

    kind, name = Mlp, "MLP"
    unit, panel = "neurons", ("MLP neurons", "neuron")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {"intermediate_size": ("neurons", "MLP neurons")}


class NeuronOptions(ChannelOptions[Mlp]):
    """Numbers of neurons that an MLP can keep."""

    kept_type = KeptNeurons
