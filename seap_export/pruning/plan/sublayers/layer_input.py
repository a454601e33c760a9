"""How the inputs of a layer are planned: all of them stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.model.families import LayerInput
from seap_export.pruning.plan.sublayers.channels import ChannelOptions, KeptChannels


@dataclass(frozen=True)
class KeptInputs(KeptChannels):
    """The kept inputs of a layer, sorted."""

    kind, name = LayerInput, "layer input"
    unit, panel = "inputs", ("inputs of layers", "input")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "hidden_size_per_layer_input": ("inputs", "inputs of a layer")
    }


class LayerInputOptions(ChannelOptions[LayerInput]):
    """The one option of the inputs of a layer, which keeps all."""

    kept_type = KeptInputs
