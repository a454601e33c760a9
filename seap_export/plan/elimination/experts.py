"""Removes experts one after another, each time the one without which the layer's output changes least.

Tokens of an expert that is gone are computed by the next ones, as the pruned router sends them: what counts is the
output that the layer then has, against the dense one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from seap_export.activations.routing import RoutingSample
from seap_export.families import Experts
from seap_export.layers.sublayers.experts import chosen_experts
from seap_export.plan.elimination.channels import eliminate_channels

__all__ = ["eliminate_experts", "eliminate_neurons", "routing_losses"]


def eliminate_experts(
    experts: Experts, sample: RoutingSample, weights: torch.Tensor
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The order in which experts are worth keeping, and what is lost without the others.

    Args:
        experts: The mixture.
        sample: Some tokens.
        weights: The weight of each token, float64 [tokens], which sum to 1.

    Returns:
        All experts, the last removed first, int64 [experts]; the mean squared change of the output for each number of
        experts kept, float64 [experts + 1]. Where it would fall as experts are removed, it stays, and for fewer
        experts than compute a token, which cannot be, it is the same.
    """
    number, fewest = experts.num_experts, experts.experts_per_token
    gram, left, removed = sample.gram(), list(range(number)), []
    losses = np.zeros(number + 1)
    while len(left) > fewest:
        tried = [
            routing_losses(experts, sample, gram, [*left[:index], *left[index + 1 :]]) for index in range(len(left))
        ]
        loss = torch.stack(tried) @ weights
        index = int(loss.argmin())
        removed.append(left.pop(index))
        losses[len(left)] = max(float(loss[index]), losses[len(left) + 1])
    losses[:fewest] = losses[fewest]
    return np.array([*left, *reversed(removed)], np.int64), losses


def routing_losses(experts: Experts, sample: RoutingSample, gram: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """The squared change of each token's output where only some experts are kept, float64 [tokens].

    `gram` is that of the sample.
    """
    every = list(range(experts.num_experts))
    indices, changes = zip(_routed(experts, sample, every, -1.0), _routed(experts, sample, kept, 1.0), strict=True)
    chosen, change = torch.cat(indices, 1), torch.cat(changes, 1)
    rows = gram.take_along_dim(chosen[:, :, None], 1).take_along_dim(chosen[:, None, :], 2)
    return torch.einsum("ti,tij,tj->t", change, rows, change).clamp_(min=0.0)


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
        experts: The mixture.
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


def _routed(
    experts: Experts, sample: RoutingSample, kept: list[int], sign: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The experts that compute each token, int64 [tokens, k], and their weights times a sign."""
    index, bias = torch.tensor(kept, device=sample.logits.device), sample.selection_bias
    weights, chosen = chosen_experts(sample.logits[:, index].double(), experts, bias if bias is None else bias[index])
    return index[chosen], sign * weights
