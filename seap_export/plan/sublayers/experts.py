"""The mixture of experts: whole experts, and their rows of the router."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from seap_export.activations.mixture import Mixture
from seap_export.activations.routing import RoutingSample
from seap_export.families import Experts
from seap_export.families.names import ROUTED, Projection
from seap_export.plan.cost import CostModel
from seap_export.plan.expert_elimination import eliminate_experts
from seap_export.plan.sublayers.kept import Kept, sorted_indices
from seap_export.plan.sublayers.options import Options

__all__ = ["ExpertOptions", "KeptExperts"]


@dataclass(frozen=True)
class KeptExperts(Kept):
    """The kept experts, sorted."""

    kind, name = Experts, "mixture of experts"
    unit, panel = "experts", ("experts", "expert")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {"num_experts": ("experts", "experts")}

    experts: tuple[int, ...]

    def __post_init__(self) -> None:
        sorted_indices(experts=self.experts)

    @property
    def units(self) -> tuple[int, ...]:
        """The experts."""
        return self.experts

    @property
    def sizes(self) -> dict[str, int]:
        """Their number."""
        return {"num_experts": len(self.experts)}

    def rows(self, dense: Experts, projection: Projection) -> torch.Tensor:
        """The router has a row for each expert."""
        return torch.tensor(self.experts) if projection == "router" else self.channels(dense)


@dataclass(frozen=True, eq=False)
class ExpertOptions(Options[Experts]):
    """One option for each number of experts, from as many as compute a token; the most important ones are kept.

    Attributes:
        order: All experts, most important first, int64 [experts].
        loss_of: Loss when the n most important experts are kept, float64 [experts + 1]; never rises with n, and ends
            in 0.
        all_stay: All experts are the only option.
    """

    kept_type = KeptExperts
    scores_name = "experts"

    order: npt.NDArray[np.int64]
    loss_of: npt.NDArray[np.float64]
    all_stay: bool = False

    def __post_init__(self) -> None:
        number = self.dense.num_experts
        if not np.array_equal(np.sort(self.order), np.arange(number)):
            raise ValueError("order must be an order of all experts")
        if self.loss_of.shape != (number + 1,) or self.loss_of[-1] != 0.0:
            raise ValueError("loss_of must have one value for every number of experts, 0 for all of them")
        if not np.isfinite(self.loss_of).all() or (np.diff(self.loss_of) > 0.0).any():
            raise ValueError("loss_of must be finite and never rise with the number of experts")

    @classmethod
    def whole(cls, dense: Experts, hidden_size: int) -> Self:
        """All experts."""
        number = dense.num_experts
        return cls(dense, hidden_size, np.arange(number), np.zeros(number + 1), all_stay=True)

    @classmethod
    def from_scores(cls, dense: Experts, hidden_size: int, scores: torch.Tensor) -> Self:
        """Those whose channels have the highest sums are kept; see `Options`."""
        worth = scores.sum(1).numpy()
        order = np.argsort(-worth, kind="stable")
        removed = np.cumsum(worth[order][::-1])[::-1]  # summed from the least important
        return cls(dense, hidden_size, order, np.append(removed, 0.0))

    @classmethod
    def statistics(cls, mixture: Mixture, layer: int) -> tuple[RoutingSample, torch.Tensor]:
        """A sample of tokens, and the weight of each."""
        return mixture.routing(layer, Experts.output)

    @classmethod
    def from_elimination(
        cls,
        dense: Experts,
        hidden_size: int,
        weight: torch.Tensor,
        statistics: tuple[RoutingSample, torch.Tensor],
        ridge: float,
    ) -> Self:
        """One after another, the expert goes without which the output changes least."""
        sample, weights = statistics
        return cls(dense, hidden_size, *eliminate_experts(dense, sample.logits, sample.gram(), weights))

    @classmethod
    def from_tensors(cls, dense: Experts, hidden_size: int, tensors: Mapping[str, torch.Tensor]) -> Self:
        """From the order and the losses."""
        return cls(dense, hidden_size, tensors["expert_order"].numpy(), tensors["expert_loss"].numpy())

    def tensors(self) -> dict[str, torch.Tensor]:
        """The order and the losses."""
        return {
            "expert_order": torch.from_numpy(self.order.copy()), "expert_loss": torch.from_numpy(self.loss_of.copy())
        }  # fmt: skip

    @classmethod
    def about(cls, dense: Experts, fraction: float) -> Experts:
        """The mixture with about this fraction of its experts."""
        number = round(fraction * dense.num_experts)
        return replace(dense, num_experts=min(max(dense.experts_per_token, number), dense.num_experts))

    @classmethod
    def smallest(cls, dense: Experts, align: int) -> Experts:
        """As many experts as compute a token."""
        return replace(dense, num_experts=dense.experts_per_token)

    @classmethod
    def cost_of(cls, sublayer: Experts, hidden_size: int, cost: CostModel) -> int:
        """Experts that do not compute a token multiply nothing."""
        idle = sublayer.num_experts - sublayer.experts_per_token if cost.budget == "macs" else 0
        of_expert = len(ROUTED[1:]) * sublayer.moe_intermediate_size * hidden_size
        return sublayer.weights(hidden_size) - idle * of_expert

    @property
    def _counts(self) -> npt.NDArray[np.int64]:
        """The number of experts of each option, ascending, int64."""
        number = self.dense.num_experts
        return np.arange(number if self.all_stay else self.dense.experts_per_token, number + 1)

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        """The loss of each number of experts."""
        return self.loss_of[self._counts]

    def costs(self, cost: CostModel) -> npt.NDArray[np.int64]:
        """The cost of each number of experts."""
        options = range(len(self._counts))
        return np.array([self.cost_of(self.shrunk(option), self.hidden_size, cost) for option in options])

    def shrunk(self, option: int) -> Experts:
        """The mixture with that number of experts."""
        return replace(self.dense, num_experts=int(self._counts[option]))

    def kept(self, option: int) -> KeptExperts:
        """The most important experts, sorted."""
        return KeptExperts(tuple(np.sort(self.order[: self._counts[option]]).tolist()))

    def nearest(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """The number of experts whose weights are nearest to each number."""
        costs = self.costs(CostModel())
        return np.asarray(np.abs(costs[:, None] - np.asarray(weights)).argmin(0))

    def of_units(self, units: npt.NDArray[np.bool_]) -> int:
        """The number of experts nearest to that of the set."""
        return int(np.argmin(np.abs(self._counts - int(units.sum()))))
