"""Observers, which collect the statistics of each kind of sublayer while the hidden states pass it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from seap_export.model.families import Experts, Sublayer
from seap_export.model.families.names import Projection
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.model.layers.layer import DecoderLayer
from seap_export.pruning.activations.covariance import CovarianceAccumulator
from seap_export.pruning.activations.moments import MomentAccumulator, Moments
from seap_export.pruning.activations.routing import RoutingObserver


class Observer(Protocol):
    """Collects statistics of a sublayer's channels over all tokens."""

    def see(self, passed: SublayerPass) -> None:
        """Adds the tokens of a batch."""

    def moments(self) -> Moments:
        """The moments of the channels."""

    def tensors(self) -> dict[str, torch.Tensor]:
        """Further statistics by name, float32; nothing can be added afterwards."""


class _CovarianceObserver:
    """Collects the covariance of the channels, packed by `pack_symmetric`."""

    def __init__(self, layer: DecoderLayer, sublayer: Sublayer, hidden: HiddenStates, folder: Path) -> None:
        self._moments, self._covariance = MomentAccumulator(), CovarianceAccumulator()

    def see(self, passed: SublayerPass) -> None:
        (channels,) = passed.channels
        self._moments.update(channels)
        self._covariance.update(channels)

    def moments(self) -> Moments:
        return self._moments.result()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"covariance": self._covariance.packed_covariance()}

    @staticmethod
    def numbers(sublayer: Sublayer, tokens: int) -> int:
        return sublayer.channels * (sublayer.channels + 1) // 2


#: The observers of kinds of which no covariance of all channels could be kept.
_OBSERVERS: Mapping[type[Sublayer], Any] = {Experts: RoutingObserver}


def observer(layer: DecoderLayer, output: Projection, hidden: HiddenStates, folder: Path) -> Observer:
    """The observer of a sublayer that the hidden states have not passed yet; what does not fit waits in `folder`."""
    sublayer = layer.spec.named(output)
    make: Callable[..., Observer] = _OBSERVERS.get(type(sublayer), _CovarianceObserver)
    return make(layer, sublayer, hidden, folder)


def kept_numbers(sublayer: Sublayer, tokens: int) -> int:
    """How many numbers the observer of a sublayer keeps of so many tokens."""
    return int(_OBSERVERS.get(type(sublayer), _CovarianceObserver).numbers(sublayer, tokens))
