"""Attention: query heads, and the KV groups that they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from seap_export.families import Attention, ModelSpec
from seap_export.families.names import Projection
from seap_export.plan.cost import CostModel
from seap_export.plan.head_sets import HeadGroups, HeadSets, best_sets, eliminate_heads
from seap_export.plan.sublayers.kept import Kept, sorted_indices, spread
from seap_export.plan.sublayers.options import Options, covariance_for

__all__ = ["XQA_HEADS", "HeadOptions", "KeptHeads", "keeps_heads"]

#: Query heads in a KV group, and channels of a head, for which GroupQueryAttention (onnxruntime-gpu 1.31) decodes with
#: its kernel XQA, on GPUs of compute capability 8.0 or later and without a soft cap; others take flash attention.
XQA_HEADS = frozenset({1, 2, 4, 5, 8, 16, 32})
_HEAD_DIMS = frozenset({64, 128, 256})
_WEIGHTS = CostModel()


@dataclass(frozen=True)
class KeptHeads(Kept):
    """The kept query heads and KV groups.

    Attributes:
        num_heads_per_group: Query heads of a KV group in the dense layer.
        kv_groups: Kept key/value heads, sorted.
        heads: Kept query heads, sorted; every kept group keeps the same number.
    """

    kind, name = Attention, "attention"
    unit, panel = "heads", ("heads by KV group", "query head")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "num_attention_heads": ("heads", "attention heads"),
        "num_key_value_heads": ("KV heads", "key-value heads"),
    }

    num_heads_per_group: int
    kv_groups: tuple[int, ...]
    heads: tuple[int, ...]

    def __post_init__(self) -> None:
        sorted_indices(kv_groups=self.kv_groups, heads=self.heads)
        if self.num_heads_per_group < 1:
            raise ValueError("num_heads_per_group must be positive")
        in_group = Counter(head // self.num_heads_per_group for head in self.heads)
        if set(in_group) != set(self.kv_groups) or len(set(in_group.values())) != 1:
            raise ValueError("every kept KV group must keep the same number of query heads, and removed groups none")

    @classmethod
    def of(cls, dense: Attention, heads: tuple[int, ...]) -> Self:
        """Some query heads, and the KV groups that they share."""
        groups = tuple(sorted({head // dense.heads_per_group for head in heads}))
        return cls(dense.heads_per_group, groups, heads)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """From a layer of plan.json."""
        return cls(row["num_heads_per_group"], tuple(row["kv_groups"]), tuple(row["heads"]))

    @property
    def group(self) -> int:
        """The query heads of a KV group."""
        return self.num_heads_per_group

    @property
    def units(self) -> tuple[int, ...]:
        """The query heads."""
        return self.heads

    @property
    def sizes(self) -> dict[str, int]:
        """The number of each."""
        return {"num_attention_heads": len(self.heads), "num_key_value_heads": len(self.kv_groups)}

    def fits(self, dense: Attention) -> bool:
        """Whether the dense layer has these heads, in groups of this size."""
        return self.num_heads_per_group == dense.heads_per_group and super().fits(dense)

    def rows(self, dense: Attention, projection: Projection) -> torch.Tensor:
        """Queries follow the heads, keys and values the groups."""
        return spread(self.heads if projection == "q_proj" else self.kv_groups, dense.head_dim)


@dataclass(frozen=True, eq=False)
class HeadOptions(Options[Attention]):
    """One option for every pair of KV groups and of query heads in each of them.

    Attributes:
        sets: What each option keeps, sorted by weights.
        loss_of: The loss of each, float64.
    """

    kept_type = KeptHeads
    scores_name = "head_channels"

    sets: tuple[KeptHeads, ...]
    loss_of: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if len(self.loss_of) != len(self.sets) or not np.isfinite(self.loss_of).all() or (self.loss_of < 0.0).any():
            raise ValueError("each option must have a loss, finite and not negative")
        if not self.sets or len(self.sets[-1].heads) != self.dense.num_attention_heads or self.loss_of[-1] != 0.0:
            raise ValueError("the last attention option must keep all heads, without loss")
        if (np.diff(self._weights) < 0).any():
            raise ValueError("attention options must be sorted by weights")

    @classmethod
    def whole(cls, dense: Attention, hidden_size: int) -> Self:
        """All heads."""
        heads = KeptHeads.of(dense, tuple(range(dense.num_attention_heads)))
        return cls(dense, hidden_size, (heads,), np.zeros(1))

    @classmethod
    def from_scores(cls, dense: Attention, hidden_size: int, scores: torch.Tensor) -> Self:
        """A head's score is the mean of its channels', so it counts `head_dim` times; see `Options`."""
        worth = scores.mean(1).numpy() * dense.head_dim
        return cls._sorted(dense, hidden_size, best_sets(_groups(dense), worth))

    @classmethod
    def from_elimination(
        cls, dense: Attention, hidden_size: int, weight: torch.Tensor, statistics: torch.Tensor, ridge: float
    ) -> Self:
        """The best of all sets of heads if there are few, and the result of a greedy elimination otherwise."""
        covariance = covariance_for(weight, statistics)
        return cls._sorted(dense, hidden_size, eliminate_heads(_groups(dense), weight, covariance, ridge))

    @classmethod
    def _sorted(cls, dense: Attention, hidden_size: int, sets: HeadSets) -> Self:
        kept = [(KeptHeads.of(dense, heads), loss) for heads, loss in sets.values()]
        kept.sort(key=lambda pair: cls.cost_of(pair[0].spec(dense), hidden_size, _WEIGHTS))
        return cls(dense, hidden_size, tuple(heads for heads, _ in kept), np.array([loss for _, loss in kept]))

    @classmethod
    def from_tensors(cls, dense: Attention, hidden_size: int, tensors: Mapping[str, torch.Tensor]) -> Self:
        """From the heads of each option and the losses."""
        sets = tensors["heads"].split(tensors["heads_kept"].tolist())
        kept = tuple(KeptHeads.of(dense, tuple(heads.tolist())) for heads in sets)
        return cls(dense, hidden_size, kept, tensors["attention_loss"].numpy())

    def tensors(self) -> dict[str, torch.Tensor]:
        """The heads of each option and the losses."""
        return {
            "heads": torch.tensor([head for kept in self.sets for head in kept.heads]),
            "heads_kept": torch.tensor([len(kept.heads) for kept in self.sets]),
            "attention_loss": torch.from_numpy(self.loss_of.copy()),
        }

    @classmethod
    def about(cls, dense: Attention, fraction: float) -> Attention:
        """About this fraction of the KV groups, each with all its heads."""
        groups = min(max(1, round(fraction * dense.num_key_value_heads)), dense.num_key_value_heads)
        return replace(dense, num_attention_heads=groups * dense.heads_per_group, num_key_value_heads=groups)

    @classmethod
    def smallest(cls, dense: Attention, align: int) -> Attention:
        """One query head."""
        return replace(dense, num_attention_heads=1, num_key_value_heads=1)

    @classmethod
    def is_loaded(cls, spec: ModelSpec, shrunk: Attention) -> bool:
        """Some classes take only numbers of heads that divide the hidden size, or only the dense model's."""
        heads = shrunk.num_attention_heads
        if keeps_heads(spec) and heads != spec.first(Attention).num_attention_heads:
            return False
        return not spec.family.heads_divide_hidden_size or spec.hidden_size % heads == 0

    @classmethod
    def beyond_weights(cls, sublayer: Attention, cost: CostModel) -> int:
        """Scores and mixing of values for each position, or its keys and values; no more than a window has."""
        heads = {"weights": 0, "macs": sublayer.num_attention_heads, "bytes": sublayer.num_key_value_heads}
        positions = min(cost.context, sublayer.sliding_window or cost.context)
        return 2 * heads[cost.budget] * sublayer.head_dim * positions

    def preferring(self, tolerance: float) -> HeadOptions:
        """The losses of options that cut groups to a number of heads that XQA does not take are raised.

        So the plan with the least sum of these losses has at most 1 + `tolerance` times the least sum of the true
        ones. Groups that keep all their heads are left as they are, and so is everything where XQA takes no heads.
        """
        if tolerance == 0.0 or self.dense.head_dim not in _HEAD_DIMS or self.dense.softcap is not None:
            return self
        each = [len(kept.heads) // len(kept.kv_groups) for kept in self.sets]
        slow = [heads not in XQA_HEADS and heads != self.dense.heads_per_group for heads in each]
        return replace(self, loss_of=np.where(slow, (1.0 + tolerance) * self.loss_of, self.loss_of))

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """As they are given."""
        return self.loss_of

    def costs(self, cost: CostModel) -> npt.NDArray[np.int64]:
        """The cost of each of `sets`."""
        return np.array([self.cost_of(kept.spec(self.dense), self.hidden_size, cost) for kept in self.sets])

    @cached_property
    def _weights(self) -> npt.NDArray[np.int64]:
        return self.costs(_WEIGHTS)

    def shrunk(self, option: int) -> Attention:
        """The sublayer with these heads."""
        return self.sets[option].spec(self.dense)

    def kept(self, option: int) -> KeptHeads:
        """One of `sets`."""
        return self.sets[option]

    def nearest(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The first of the nearest ones."""
        return np.asarray(np.argmin(np.abs(self._weights - np.asarray(weights)[..., None]), axis=-1))

    def of_units(self, units: npt.NDArray[np.bool_]) -> int:
        """Whose weights are nearest to those of the heads and of the groups that have one; of equal ones, the best."""
        groups = units.reshape(self.dense.num_key_value_heads, -1).any(1)
        shared = 2 * self.hidden_size * self.dense.head_dim  # keys and values of a group
        each = self.dense.weights(self.hidden_size) // self.dense.num_key_value_heads - shared
        wanted = int(units.sum()) * (each // self.dense.heads_per_group) + int(groups.sum()) * shared
        distances = np.abs(self._weights - wanted)
        return int(np.lexsort((self.losses, distances))[0])


def _groups(dense: Attention) -> HeadGroups:
    return HeadGroups(dense.num_key_value_heads, dense.heads_per_group, dense.head_dim)


def keeps_heads(spec: ModelSpec) -> bool:
    """Whether transformers loads uniform layers of this model only with all heads."""
    when = spec.family.uniform_keeps_heads
    return when == "always" or (
        when == "longrope" and any(one.rope is not None and one.rope.rope_type == when for one in spec.all(Attention))
    )
