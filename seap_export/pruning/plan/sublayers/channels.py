"""How sublayers are planned whose channels are independent of each other, such as neurons: any number can be kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from seap_export.model.families import Sublayer
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.elimination.channels import eliminate_channels
from seap_export.pruning.plan.sublayers.kept import Kept, sorted_indices
from seap_export.pruning.plan.sublayers.options import Options, covariance_for

S = TypeVar("S", bound=Sublayer)


@dataclass(frozen=True)
class KeptChannels(Kept):
    """The kept channels, sorted."""

    def __post_init__(self) -> None:
        sorted_indices(units=self.units)

    @property
    def sizes(self) -> dict[str, int]:
        return dict.fromkeys(self.kind.size_keys, len(self.units))


@dataclass(frozen=True, eq=False)
class ChannelOptions(Options[S]):
    """One option for each number of channels; the most important ones are kept.

    Attributes:
        order: All channels, most important first, int64 [channels].
        loss_of: Loss when the n most important channels are kept, float64 [channels + 1]; never rises with n, and ends
            in 0.
    """

    kept_type: ClassVar[type[KeptChannels]]

    order: npt.NDArray[np.int64]
    loss_of: npt.NDArray[np.float64]
    align: int = 1

    def __post_init__(self) -> None:
        channels = self.dense.channels
        if not np.array_equal(np.sort(self.order), np.arange(channels)):
            raise ValueError("order must be an order of all channels")
        if self.loss_of.shape != (channels + 1,) or self.loss_of[-1] != 0.0:
            raise ValueError("loss_of must have one value for every number of channels, 0 for all of them")
        if not np.isfinite(self.loss_of).all() or (np.diff(self.loss_of) > 0.0).any():
            raise ValueError("loss_of must be finite and never rise with the number of channels")

    @classmethod
    def whole(cls, dense: S, hidden_size: int) -> Self:
        channels = dense.channels
        return cls(dense, hidden_size, np.arange(channels), np.zeros(channels + 1), channels)

    @classmethod
    def from_scores(cls, dense: S, hidden_size: int, scores: torch.Tensor) -> Self:
        worth = scores.numpy()
        order = np.argsort(-worth, kind="stable")
        removed = np.cumsum(worth[order][::-1])[::-1]  # summed from the least important
        return cls(dense, hidden_size, order, np.append(removed, 0.0))

    @classmethod
    def from_elimination(
        cls, dense: S, hidden_size: int, weight: torch.Tensor, statistics: torch.Tensor, ridge: float
    ) -> Self:
        """Removes the channels that increase the loss least, block by block; see `Options`."""
        return cls(dense, hidden_size, *eliminate_channels(weight, covariance_for(weight, statistics), ridge))

    @classmethod
    def about(cls, dense: S, fraction: float) -> S:
        return cls._with(dense, min(max(1, round(fraction * dense.channels)), dense.channels))

    @classmethod
    def smallest(cls, dense: S, align: int) -> S:
        """The sublayer with `align` channels, or with all if it has fewer."""
        return cls._with(dense, min(align, dense.channels))

    @classmethod
    def _with(cls, dense: S, channels: int) -> S:
        size: dict[str, Any] = dict.fromkeys(dense.size_keys, channels)
        return replace(dense, **size)

    def aligned(self, align: int) -> ChannelOptions[S]:
        return replace(self, align=max(align, self.align))

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """The number of channels of each option, ascending, int64."""
        return np.append(np.arange(self.align, self.dense.channels, self.align), self.dense.channels)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        return self.loss_of[self.counts]

    def costs(self, cost: CostModel) -> npt.NDArray[np.int64]:
        fixed, each = self._price(cost)
        return fixed + self.counts * each

    def _price(self, cost: CostModel) -> tuple[int, int]:
        """The cost that does not depend on the number of channels, and the cost of each channel."""
        one, whole = (
            self.cost_of(self._with(self.dense, n), self.hidden_size, cost) for n in (1, self.dense.channels)
        )
        each = (whole - one) // (self.dense.channels - 1) if self.dense.channels > 1 else one
        return one - each, each

    def shrunk(self, option: int) -> S:
        return self._with(self.dense, int(self.counts[option]))

    def kept(self, option: int) -> KeptChannels:
        return self.kept_type(tuple(np.sort(self.order[: self.counts[option]]).tolist()))

    def nearest(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The options whose numbers of channels come nearest to some numbers of weights."""
        fixed, each = self._price(CostModel())
        counts = np.rint((weights - fixed) / each / self.align) * self.align
        return np.asarray(np.searchsorted(self.counts, np.clip(counts, self.counts[0], self.counts[-1])))

    def of_units(self, units: npt.NDArray[np.bool_]) -> int:
        """The option whose number of channels is nearest to that of the set."""
        return int(np.argmin(np.abs(self.counts - int(units.sum()))))
