"""Chooses the sets of heads to keep and refit, one for each number of groups and of heads in a group."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from seap_export.pruning.plan.elimination.refit import Refit, SetLosses

#: Largest number of sets of heads that are all tried in a layer; beyond it, the elimination is greedy.
_EXACT_SETS = 200

#: For every (groups, heads per group), the heads that are kept and the loss.
HeadSets = dict[tuple[int, int], tuple[tuple[int, ...], float]]


@dataclass(frozen=True)
class HeadGroups:
    """Heads in groups; every kept group keeps as many of its heads as the others."""

    groups: int
    size: int
    width: int

    @property
    def heads(self) -> int:
        return self.groups * self.size

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Every pair of a number of groups and a number of heads per group."""
        return itertools.product(range(1, self.groups + 1), range(1, self.size + 1))

    def number_of_sets(self) -> int:
        return sum(
            math.comb(self.groups, groups) * math.comb(self.size, heads) ** groups for groups, heads in self.sizes()
        )

    def sets(self, groups: int, heads: int) -> Iterator[tuple[int, ...]]:
        """Every set of this many heads in each of this many groups."""
        for kept_groups in itertools.combinations(range(self.groups), groups):
            members = [itertools.combinations(self.members(group), heads) for group in kept_groups]
            for parts in itertools.product(*members):
                yield tuple(itertools.chain(*parts))

    def members(self, group: int) -> range:
        return range(group * self.size, (group + 1) * self.size)

    def channels(self, heads: Sequence[int], device: torch.device) -> torch.Tensor:
        """The channels that belong to some heads, int64."""
        first = torch.tensor(heads, device=device)[:, None] * self.width
        return (first + torch.arange(self.width, device=device)).flatten()


def best_sets(groups: HeadGroups, worth: npt.NDArray[np.float64]) -> HeadSets:
    """The best set of heads of every size, given each head's worth; the first of equal ones.

    A group is worth the heads that it would keep, so that there is one best set of each size.

    Args:
        worth: Loss when a head is removed, float64 [heads]; losses of several heads add up.
    """
    by_group = worth.reshape(groups.groups, groups.size)
    order = np.argsort(-by_group, axis=1, kind="stable")
    chosen: HeadSets = {}
    for heads in range(1, groups.size + 1):
        kept_worth = np.take_along_axis(by_group, order[:, :heads], axis=1).sum(1)
        group_order = np.argsort(-kept_worth, kind="stable")
        for number in range(1, groups.groups + 1):
            group_set = np.sort(group_order[:number])
            kept_heads = np.sort((group_set[:, None] * groups.size + order[group_set, :heads]).ravel())
            chosen[number, heads] = tuple(kept_heads.tolist()), float(np.delete(worth, kept_heads).sum())
    return chosen


def eliminate_heads(groups: HeadGroups, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> HeadSets:
    """The set of every size whose channels make up best for the others: of all sets if they are few, else greedily.

    Args:
        weight: The output projection, [out, channels], on the covariance's device.
        covariance: Centred covariance of its input, float64 [channels, channels]; it is overwritten.
        ridge: Ridge of the refit, as a fraction of the sum of the variances.

    Raises:
        UsageError: The ridge is too small for the covariance.
    """
    if not float(covariance.diagonal().sum()) > 0.0:
        return best_sets(groups, np.zeros(groups.heads))
    strength = ridge * float(covariance.trace())
    choose = _least_losses if groups.number_of_sets() <= _EXACT_SETS else _greedy
    # Negative by rounding only.
    return {
        size: (heads, max(loss, 0.0)) for size, (heads, loss) in choose(groups, weight, covariance, strength).items()
    }


def _least_losses(groups: HeadGroups, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> HeadSets:
    """The set with the least loss for every size, by trying them all."""
    losses = SetLosses(weight, covariance, ridge, groups.width)
    chosen: HeadSets = {}
    for size in groups.sizes():
        tried = [(heads_kept, losses.loss(heads_kept)) for heads_kept in groups.sets(*size)]
        chosen[size] = min(tried, key=lambda pair: pair[1])
    return chosen


def _greedy(groups: HeadGroups, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> HeadSets:
    """For every number of heads per group: removes heads one by one down to that number, then whole groups."""
    refit = Refit(weight, covariance, ridge)
    heads_left, loss = list(range(groups.heads)), 0.0
    chosen: HeadSets = {}
    for heads in range(groups.size, 0, -1):
        while len(heads_left) > groups.groups * heads:
            candidates = [[head] for head in heads_left if len(_kept_with(groups, heads_left, head)) > heads]
            heads_left, loss = _without_least(groups, refit, heads_left, loss, candidates)
        chosen[groups.groups, heads] = tuple(heads_left), loss
        fewer, fewer_loss, rest = heads_left, loss, refit.copy() if heads > 1 else refit
        for number in range(groups.groups - 1, 0, -1):
            by_group = [list(part) for _, part in itertools.groupby(fewer, lambda head: head // groups.size)]
            fewer, fewer_loss = _without_least(groups, rest, fewer, fewer_loss, by_group)
            chosen[number, heads] = tuple(fewer), fewer_loss
    return chosen


def _without_least(
    groups: HeadGroups, refit: Refit, heads_left: Sequence[int], loss: float, candidates: Sequence[Sequence[int]]
) -> tuple[list[int], float]:
    """Removes the candidate, a set of heads, that increases the loss least; the heads left and the loss."""
    device = refit.left.device
    least = min(candidates, key=lambda heads: float(refit.increase(groups.channels(heads, device))))
    loss += float(refit.remove(groups.channels(least, device)))
    return [head for head in heads_left if head not in least], loss


def _kept_with(groups: HeadGroups, heads_left: Sequence[int], head: int) -> list[int]:
    return [other for other in heads_left if other in groups.members(head // groups.size)]
