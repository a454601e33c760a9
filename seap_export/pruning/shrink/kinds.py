"""Finds the fit for the output projection of a sublayer of parts, such as experts, which are fitted one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

from seap_export.model.families import Experts, Sublayer
from seap_export.model.layers.hidden_states import HiddenStates, SublayerOutput
from seap_export.model.layers.layer import DecoderLayer
from seap_export.pruning.shrink.expert_refit import ExpertFit, Store


class PartsFit(Protocol):
    """The fit of a sublayer that consists of parts; see `ExpertFit`."""

    def __init__(
        self, sublayer: Any, layer: DecoderLayer, changed: HiddenStates, weights: Sequence[torch.Tensor]
    ) -> None: ...

    def add(self, exact: DecoderLayer, passed: SublayerOutput) -> None:
        """Adds the tokens of a batch."""

    def fitted(self, weight: torch.Tensor, ridge: float, store: Store) -> torch.Tensor:
        """The new weight of the output projection; call it after all batches."""


_FITS: Mapping[type[Sublayer], type[PartsFit]] = {Experts: ExpertFit}


def parts_fit(sublayer: Sublayer) -> Callable[..., PartsFit] | None:
    """The class that fits a sublayer of parts; None: the sublayer has none, and is fitted as a whole."""
    return _FITS.get(type(sublayer))
