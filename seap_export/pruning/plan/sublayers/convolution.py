"""How short convolutions are planned: any number of channels can be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.model.families import Convolution, ModelSpec
from seap_export.pruning.plan.sublayers.channels import ChannelOptions, KeptChannels


@dataclass(frozen=True)
class KeptConvolution(KeptChannels):
    """The kept channels of a short convolution, sorted."""

    kind, name = Convolution, "convolution"
    unit, panel = "channels", ("channels of convolutions", "channel")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {"conv_dim": ("channels", "channels of convolutions")}


class ConvolutionOptions(ChannelOptions[Convolution]):
    """Numbers of channels that a short convolution can keep."""

    kept_type = KeptConvolution

    @classmethod
    def is_loaded(cls, spec: ModelSpec, shrunk: Convolution) -> bool:
        """True for as many channels as the hidden states have, which is what transformers' class makes."""
        return shrunk.conv_dim == spec.hidden_size
