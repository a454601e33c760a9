"""Removes experts one after another, each time the one without which the layer's output changes least.

Tokens of an expert that is gone are computed by the next ones, as the pruned router sends them: what counts is the
output that the layer then has, against the dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from seap_export.model.families import Experts
from seap_export.model.layers.sublayers.experts import chosen_experts
from seap_export.pruning.activations.routing import RoutingSample
from seap_export.pruning.plan.elimination.channels import eliminate_channels


def eliminate_experts(
    experts: Experts, sample: RoutingSample, weights: torch.Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The order in which experts are worth keeping, and what is lost without the others.

    Args:
        weights: The weight of each token, float64 [tokens], which sum to 1.

    Returns:
        All experts, the last removed first, int64 [experts]; the mean squared change of the output for each number of
        experts kept, float64 [experts + 1]. Where it would fall as experts are removed, it stays, and for fewer
        experts than compute a token, which cannot be, it is the same.
    """
    number, fewest = experts.num_experts, experts.experts_per_token
    losses_of, left, removed = RoutingLosses(experts, sample), list(range(number)), list[int]()
    losses = np.zeros(number + 1)
    while len(left) > fewest:
        tried = [losses_of([*left[:index], *left[index + 1 :]]) for index in range(len(left))]
        loss = torch.stack(tried) @ weights
        index = int(loss.argmin())
        removed.append(left.pop(index))
        losses[len(left)] = max(float(loss[index]), losses[len(left) + 1])
    losses[:fewest] = losses[fewest]
    return np.array([*left, *reversed(removed)], np.int64), losses


class RoutingLosses:
    """The squared change of each token's output where only some experts are kept."""

    def __init__(self, experts: Experts, sample: RoutingSample) -> None:
        self._experts, self._sample, self._products = experts, sample, sample.gram().flatten(1)
        self._dense = self._routed(range(experts.num_experts))

    def __call__(self, kept: Sequence[int]) -> torch.Tensor:
        """The squared changes of all tokens when only these experts are kept, float64 [tokens]."""
        (dense, before), (chosen, weights) = self._dense, self._routed(kept)
        changed, change = torch.cat([dense, chosen], 1), torch.cat([-before, weights], 1)
        pairs = changed[:, :, None] * self._experts.num_experts + changed[:, None, :]
        products = self._products.gather(1, pairs.flatten(1)).view(pairs.shape)
        return torch.einsum("ti,tij,tj->t", change, products, change).clamp_(min=0.0)

    def _routed(self, kept: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """The experts that compute each token, int64 [tokens, k], and their weights."""
        logits, bias, index = self._sample.logits, self._sample.selection_bias, torch.tensor(kept)
        bias = bias if bias is None else bias[index]
        weights, chosen = chosen_experts(logits[:, index].double(), self._experts, bias)
        return index[chosen], weights


def eliminate_neurons(
    experts: Experts,
    weight: torch.Tensor,
    moment: Callable[[int], torch.Tensor],
    ridge: float,
    shares: Sequence[float],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The order in which neurons of each expert are worth keeping, and what is lost without the others.

    An expert is refitted by itself, without a bias, so that its neurons' moments take the place of their covariance.

    Args:
        weight: The output projection, [hidden_size, channels].
        moment: The mean of c cᵀ over all tokens, float64 [neurons, neurons], with c the channels of an expert.
        ridge: Ridge of a refit by all tokens, as a fraction of the moment's trace.
        shares: The fraction of the tokens that reach each expert.

    Returns:
        The neurons of each expert, the last removed first, int64 [experts, neurons]; the sum of the losses of all for
        each number kept, float64 [neurons + 1].
    """
    orders, losses = [], np.zeros(experts.moe_intermediate_size + 1)
    for expert, share in enumerate(shares):
        columns = weight[:, experts.of_expert(expert)]
        expert_ridge = ridge / max(share, ridge)  # at most 1, where hardly any token comes
        order, loss = eliminate_channels(columns, moment(expert).to(weight.device), expert_ridge)
        orders.append(order)
        losses += loss
    return np.stack(orders), losses
