"""How heads in groups are planned, as those of attention: any number of groups, with as many heads in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from seap_export.model.families.sublayers import Grouped
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.elimination.head_sets import HeadGroups, HeadSets, best_sets, eliminate_heads
from seap_export.pruning.plan.sublayers.kept import Kept, sorted_indices
from seap_export.pruning.plan.sublayers.options import Options, covariance_for

S = TypeVar("S", bound=Grouped)
_WEIGHTS = CostModel()


@dataclass(frozen=True)
class KeptGrouped(Kept):
    """The kept heads, sorted; every kept group keeps the same number.

    Attributes:
        group_size: The heads of a group in the dense layer.
        groups: The kept groups, sorted.
    """

    group_size: int
    groups: tuple[int, ...]

    def __post_init__(self) -> None:
        sorted_indices(groups=self.groups, units=self.units)
        if self.group_size < 1:
            raise ValueError("the number of heads in a group must be positive")
        in_group = Counter(head // self.group_size for head in self.units)
        if set(in_group) != set(self.groups) or len(set(in_group.values())) != 1:
            raise ValueError("every kept group must keep the same number of heads, and removed groups none")

    @classmethod
    def of(cls, dense: Grouped, heads: tuple[int, ...]) -> Self:
        """The plan that keeps these heads, and their groups."""
        groups = tuple(sorted({head // dense.heads_per_group for head in heads}))
        return cls(heads, dense.heads_per_group, groups)

    @property
    def group(self) -> int:
        return self.group_size

    @property
    def sizes(self) -> dict[str, int]:
        return dict(zip(self.kind.size_keys, (len(self.units), len(self.groups)), strict=True))

    def fits(self, dense: Any) -> bool:
        """Whether the dense layer has these heads, in groups of this size, whole if they must be."""
        are_kept = not dense.keeps_groups or len(self.units) == len(self.groups) * self.group
        are_kept &= not dense.fixed_groups or len(self.groups) * self.group == dense.heads
        return are_kept and self.group == dense.heads_per_group and super().fits(dense)


@dataclass(frozen=True, eq=False)
class GroupedOptions(Options[S]):
    """One option for every pair of groups and of heads in each of them.

    Attributes:
        sets: The plan of each option, sorted by weights.
        loss_of: The loss of each option, float64.
    """

    kept_type: ClassVar[type[KeptGrouped]]

    sets: tuple[KeptGrouped, ...]
    loss_of: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.loss_of) != len(self.sets) or not np.isfinite(self.loss_of).all() or (self.loss_of < 0.0).any():
            raise ValueError("each option must have a loss, finite and not negative")
        if not self.sets or len(self.sets[-1].units) != self.dense.heads or self.loss_of[-1] != 0.0:
            raise ValueError("the last option must keep all heads, without loss")
        if (np.diff(self._weights) < 0).any():
            raise ValueError("options must be sorted by weights")

    @classmethod
    def whole(cls, dense: S, hidden_size: int) -> Self:
        return cls(dense, hidden_size, (cls.kept_type.of(dense, tuple(range(dense.heads))),), np.zeros(1))

    @classmethod
    def from_scores(cls, dense: S, hidden_size: int, scores: torch.Tensor) -> Self:
        """Scores a head by the mean of its channels, times their number; see `Options`."""
        worth = scores.mean(1).numpy() * dense.unit
        return cls._sorted(dense, hidden_size, best_sets(_groups(dense), worth))

    @classmethod
    def from_elimination(
        cls, dense: S, hidden_size: int, weight: torch.Tensor, statistics: torch.Tensor, ridge: float
    ) -> Self:
        """The best of all sets of heads if there are few, otherwise by greedy elimination; see `Options`."""
        covariance = covariance_for(weight, statistics)
        return cls._sorted(dense, hidden_size, eliminate_heads(_groups(dense), weight, covariance, ridge))

    @classmethod
    def _sorted(cls, dense: S, hidden_size: int, sets: HeadSets) -> Self:
        kept = [(cls.kept_type.of(dense, heads), loss) for heads, loss in sets.values()]
        kept = [(option, loss) for option, loss in kept if option.fits(dense)]
        kept.sort(key=lambda pair: cls.cost_of(pair[0].spec(dense), hidden_size, _WEIGHTS))
        return cls(dense, hidden_size, tuple(heads for heads, _ in kept), np.array([loss for _, loss in kept]))

    @classmethod
    def from_tensors(cls, dense: S, hidden_size: int, tensors: Mapping[str, torch.Tensor]) -> Self:
        every = tensors["heads"].split(tensors["numbers"].tolist())
        kept = tuple(cls.kept_type.of(dense, tuple(heads.tolist())) for heads in every)
        return cls(dense, hidden_size, kept, tensors["loss_of"].numpy())

    def tensors(self) -> dict[str, torch.Tensor]:
        heads = torch.tensor([head for kept in self.sets for head in kept.units])
        numbers = torch.tensor([len(kept.units) for kept in self.sets])
        return {"heads": heads, "numbers": numbers, **super().tensors()}

    @classmethod
    def about(cls, dense: S, fraction: float) -> S:
        """The sublayer with about this fraction of its groups, or of each group's heads where groups are fixed."""
        number = dense.heads // dense.heads_per_group
        if dense.fixed_groups:
            heads = min(max(1, round(fraction * dense.heads_per_group)), dense.heads_per_group)
            return cls._with(dense, number * heads, number)
        groups = min(max(1, round(fraction * number)), number)
        return cls._with(dense, groups * dense.heads_per_group, groups)

    @classmethod
    def smallest(cls, dense: S, align: int) -> S:
        """The sublayer with one head; one whole group where groups stay whole; one head of each where all stay."""
        if dense.fixed_groups:
            groups = dense.heads // dense.heads_per_group
            return cls._with(dense, groups, groups)
        return cls._with(dense, dense.heads_per_group if dense.keeps_groups else 1, 1)

    @classmethod
    def _with(cls, dense: S, heads: int, groups: int) -> S:
        sizes: dict[str, Any] = dict(zip(dense.size_keys, (heads, groups), strict=True))
        return replace(dense, **sizes)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        return self.loss_of

    def costs(self, cost: CostModel) -> npt.NDArray[np.int64]:
        return np.array([self.cost_of(kept.spec(self.dense), self.hidden_size, cost) for kept in self.sets])

    @cached_property
    def _weights(self) -> npt.NDArray[np.int64]:
        return self.costs(_WEIGHTS)

    def shrunk(self, option: int) -> S:
        return self.sets[option].spec(self.dense)

    def kept(self, option: int) -> KeptGrouped:
        return self.sets[option]

    def nearest(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        return np.asarray(np.argmin(np.abs(self._weights - np.asarray(weights)[..., None]), axis=-1))

    def of_units(self, units: npt.NDArray[np.bool_]) -> int:
        """The option whose weights are nearest to those of the heads and their groups; of equal ones, the best."""
        groups = units.reshape(-1, self.dense.heads_per_group).any(1)
        one, two = (self._with(self.dense, heads, 1).weights(self.hidden_size) for heads in (1, 2))
        wanted = int(units.sum()) * (two - one) + int(groups.sum()) * (2 * one - two)
        distances = np.abs(self._weights - wanted)
        return int(np.lexsort((self.losses, distances))[0])


def _groups(dense: Grouped) -> HeadGroups:
    return HeadGroups(dense.heads // dense.heads_per_group, dense.heads_per_group, dense.unit)
