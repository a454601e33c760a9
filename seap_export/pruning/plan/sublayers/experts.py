"""How mixtures of experts are planned: whole experts with their rows of the router, and neurons of all experts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from seap_export.model.families import Experts, ModelSpec
from seap_export.model.families.names import Projection
from seap_export.pruning.activations.task_mixture import ExpertStatistics, TaskMixture
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.elimination.experts import eliminate_experts, eliminate_neurons
from seap_export.pruning.plan.sublayers.kept import Kept, sorted_indices
from seap_export.pruning.plan.sublayers.options import Options

#: Numbers of neurons are multiples of this where the dense experts' is: the blocks of 4-bit weights.
_BLOCK = 32
#: Of options whose costs are as near to a budget, up to this fraction of the whole, the one that loses least is taken.
_NEAR = 0.01


@dataclass(frozen=True)
class KeptExperts(Kept):
    """The kept experts, and how many neurons each keeps.

    Attributes:
        expert_neurons: The kept neurons of each kept expert, sorted; empty: all.
    """

    kind, name = Experts, "mixture of experts"
    unit, panel = "experts", ("experts", "expert")
    size_words: ClassVar[Mapping[str, tuple[str, str]]] = {
        "num_experts": ("experts", "experts"),
        "moe_intermediate_size": ("expert neurons", "neurons of an expert"),
    }

    expert_width: int
    expert_neurons: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        sorted_indices(units=self.units)
        for neurons in self.expert_neurons:
            sorted_indices(expert_neurons=neurons)
        numbers = [len(neurons) for neurons in self.expert_neurons]
        if numbers not in ([], [self.expert_width] * len(self.units)):
            raise ValueError("every kept expert must keep the same number of neurons")

    @property
    def sizes(self) -> dict[str, int]:
        return {"num_experts": len(self.units), "moe_intermediate_size": self.expert_width}

    def fits(self, dense: Experts) -> bool:
        """Whether the dense layer has these experts and neurons."""
        last = max((neurons[-1] for neurons in self.expert_neurons), default=self.expert_width - 1)
        is_whole = bool(self.expert_neurons) or self.expert_width == dense.moe_intermediate_size
        return super().fits(dense) and is_whole and last < dense.moe_intermediate_size

    def channels(self, dense: Experts) -> torch.Tensor:
        """The kept neurons of one expert after the other, int64."""
        if not self.expert_neurons:
            return super().channels(dense)
        starts = dense.moe_intermediate_size * torch.tensor(self.units)
        return (starts[:, None] + torch.tensor(self.expert_neurons)).flatten()

    def rows(self, dense: Experts, name: Projection | str) -> torch.Tensor:
        """The router has a row for each expert, and so have the biases of the choice and of what experts write."""
        is_by_expert = name == "router" or name in dense.inner_tensors()
        return torch.tensor(self.units) if is_by_expert else self.channels(dense)


@dataclass(frozen=True, eq=False)
class ExpertOptions(Options[Experts]):
    """One option for each number of experts, from as many as compute a token, and of neurons that each keeps.

    The most important ones are kept. The losses of both add up: tokens of experts that are gone are computed by as
    many others, whose missing neurons cost as much.

    Attributes:
        order: All experts, most important first, int64 [experts].
        loss_of: Loss when the n most important experts are kept, float64 [experts + 1]; never rises with n, and ends
            in 0.
        neuron_order: The neurons of each expert, most important first, int64 [experts, neurons].
        neuron_loss: Loss when n neurons of each expert are kept, float64 [neurons + 1]; as `loss_of`.
        all_stay: All experts are the only option.
    """

    kept_type = KeptExperts

    order: npt.NDArray[np.int64]
    loss_of: npt.NDArray[np.float64]
    neuron_order: npt.NDArray[np.int64]
    neuron_loss: npt.NDArray[np.float64]
    step: int = 1
    all_stay: bool = False

    def __post_init__(self) -> None:
        number, width = self.dense.num_experts, self.dense.moe_intermediate_size
        if not np.array_equal(np.sort(self.order), np.arange(number)):
            raise ValueError("order must be an order of all experts")
        if not np.array_equal(np.sort(self.neuron_order), np.tile(np.arange(width), (number, 1))):
            raise ValueError("neuron_order must be an order of all neurons of each expert")
        for name, losses, most in (("loss_of", self.loss_of, number), ("neuron_loss", self.neuron_loss, width)):
            if losses.shape != (most + 1,) or losses[-1] != 0.0:
                raise ValueError(f"{name} must have one value for every number, 0 for all")
            if not np.isfinite(losses).all() or (np.diff(losses) > 0.0).any():
                raise ValueError(f"{name} must be finite and never rise with the number")

    @classmethod
    def whole(cls, dense: Experts, hidden_size: int) -> Self:
        number = dense.num_experts
        order, losses = np.arange(number), np.zeros(number + 1)
        return cls(dense, hidden_size, order, losses, *_whole_neurons(dense), all_stay=True)

    @classmethod
    def from_scores(cls, dense: Experts, hidden_size: int, scores: torch.Tensor) -> Self:
        """Keeps the experts whose channels have the highest sums, with all their neurons; see `Options`."""
        worth = scores.sum(1).numpy()
        order = np.argsort(-worth, kind="stable")
        removed = np.cumsum(worth[order][::-1])[::-1]  # summed from the least important
        losses, width = np.append(removed, 0.0), dense.moe_intermediate_size
        return cls(dense, hidden_size, order, losses, *_whole_neurons(dense), step=width)

    @classmethod
    def statistics(cls, mixture: TaskMixture, layer: int) -> ExpertStatistics:
        """A sample of the layer's tokens, and the moments of each expert's channels."""
        return mixture.experts(layer, Experts.output)

    @classmethod
    def from_elimination(
        cls, dense: Experts, hidden_size: int, weight: torch.Tensor, statistics: ExpertStatistics, ridge: float
    ) -> Self:
        """Removes one expert after another, the one that the output needs least; and neurons as those of MLPs."""
        sample, weights = statistics.sample, statistics.weights
        order, losses = eliminate_experts(dense, sample, weights)
        neurons = eliminate_neurons(dense, weight, statistics.moment, ridge, statistics.shares(dense).tolist())
        return cls(dense, hidden_size, order, losses, *neurons)

    @classmethod
    def is_loaded(cls, spec: ModelSpec, shrunk: Experts) -> bool:
        """False for fewer neurons where the class makes a shared expert of several times as many."""
        rules = spec.family.experts
        is_free = rules is None or not rules.shared_number
        return is_free or shrunk.moe_intermediate_size == spec.first(Experts).moe_intermediate_size

    @classmethod
    def smallest_loaded(cls, spec: ModelSpec, dense: Experts, align: int) -> Experts:
        """The mixture with the fewest experts, and with fewer neurons if the class takes them."""
        smallest = cls.smallest(dense, align)
        whole = replace(smallest, moe_intermediate_size=dense.moe_intermediate_size)
        return smallest if cls.is_loaded(spec, smallest) else whole

    @classmethod
    def about(cls, dense: Experts, fraction: float) -> Experts:
        """The mixture with about this fraction of its experts, and of their neurons if these are too few."""
        wanted, fewest = fraction * dense.num_experts, dense.experts_per_token
        number = min(max(fewest, round(wanted)), dense.num_experts)
        width = max(1, round(min(1.0, wanted / fewest) * dense.moe_intermediate_size))
        return replace(dense, num_experts=number, moe_intermediate_size=width)

    @classmethod
    def smallest(cls, dense: Experts, align: int) -> Experts:
        """The mixture with as many experts as compute a token, each with the fewest neurons."""
        width = min(_step(dense, align), dense.moe_intermediate_size)
        return replace(dense, num_experts=dense.experts_per_token, moe_intermediate_size=width)

    def aligned(self, align: int) -> ExpertOptions:
        """The options with numbers of neurons that are multiples of `align` and of the blocks of 4-bit weights."""
        return replace(self, step=max(self.step, _step(self.dense, align)))

    @classmethod
    def cost_of(cls, sublayer: Experts, hidden_size: int, cost: CostModel) -> int:
        """Experts that do not compute a token multiply nothing."""
        return (sublayer.active_weights if cost.budget == "macs" else sublayer.weights)(hidden_size)

    @cached_property
    def _counts(self) -> npt.NDArray[np.int64]:
        """The numbers of experts and of neurons of each option, int64 [options, 2], sorted by weights."""
        number, width = self.dense.num_experts, self.dense.moe_intermediate_size
        if self.all_stay:
            return np.array([[number, width]])
        widths = np.append(np.arange(self.step, width, self.step), width)
        experts = np.arange(self.dense.experts_per_token, number + 1)
        counts = np.stack(np.meshgrid(experts, widths, indexing="ij"), -1).reshape(-1, 2)
        return counts[np.lexsort((counts[:, 0], counts[:, 0] * (3 * counts[:, 1] + 1)))]

    @property
    def losses(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.loss_of[self._counts[:, 0]] + self.neuron_loss[self._counts[:, 1]])

    def costs(self, cost: CostModel) -> npt.NDArray[np.int64]:
        options = range(len(self._counts))
        return np.array([self.cost_of(self.shrunk(option), self.hidden_size, cost) for option in options])

    @cached_property
    def _weights(self) -> npt.NDArray[np.int64]:
        return self.costs(CostModel())

    def shrunk(self, option: int) -> Experts:
        number, width = map(int, self._counts[option])
        return replace(self.dense, num_experts=number, moe_intermediate_size=width)

    def kept(self, option: int) -> KeptExperts:
        number, width = map(int, self._counts[option])
        experts = np.sort(self.order[:number])
        if width == self.dense.moe_intermediate_size:
            return KeptExperts(tuple(experts.tolist()), width)
        neurons = np.sort(self.neuron_order[experts, :width])
        return KeptExperts(tuple(experts.tolist()), width, tuple(map(tuple, neurons.tolist())))

    def nearest(self, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """For each number of weights, the option with the least loss among those of about the nearest size."""
        costs = self._weights
        distances = np.abs(costs[:, None] - np.asarray(weights))
        is_near = distances <= distances.min(0) + (_NEAR * costs[-1] if len(set(self._counts[:, 1])) > 1 else 0.0)
        return np.asarray(np.where(is_near, self.losses[:, None], np.inf).argmin(0))

    def of_units(self, units: npt.NDArray[np.bool_]) -> int:
        """The option with the number of experts nearest to that of the set, and with all their neurons."""
        distances = np.abs(self._counts[:, 0] - int(units.sum()))
        return int(np.lexsort((-self._counts[:, 1], distances))[0])


def _whole_neurons(dense: Experts) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Neurons that were not ranked: their order, and no loss."""
    width = dense.moe_intermediate_size
    return np.tile(np.arange(width), (dense.num_experts, 1)), np.zeros(width + 1)


def _step(dense: Experts, align: int) -> int:
    return align if dense.moe_intermediate_size % _BLOCK else math.lcm(align, _BLOCK)
