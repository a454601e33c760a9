"""The options of a layer by backward elimination: the error of its projections after the best refit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from seap_export.errors import UsageError
from seap_export.families import Attention, Mlp, ModelSpec
from seap_export.families.names import Projection
from seap_export.plan.cost import LayerShape, layer_shape
from seap_export.plan.options import AttentionOption, LayerOptions, attention_options
from seap_export.plan.refit import Refit, SetLosses, removal_losses

__all__ = ["eliminate_neurons", "options_from_elimination", "removal_order"]

#: Fraction of the remaining neurons that is removed before the others are evaluated again.
_FRACTION = 1 / 8
#: Down to this ridge single precision will do: the condition number is at most its reciprocal, so that the rounding
#: error of an inverse stays below a percent. That of a loss is smaller by far.
_SINGLE_PRECISION_RIDGE = 1e-5
#: Largest number of sets of heads that are all tried in a layer; beyond it, the elimination is greedy.
_EXACT_SETS = 200


def options_from_elimination(
    spec: ModelSpec,
    layer: int,
    weights: Mapping[Projection, torch.Tensor],
    covariances: Mapping[Projection, torch.Tensor],
    *,
    ridge: float,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - it is immutable
) -> LayerOptions:
    """The options of a layer whose projections are refitted; losses as in `Refit`.

    Neurons are removed in blocks, starting with those that increase the loss least. For every (groups, heads per
    group), the heads are the best of all sets if there are few, and the result of a greedy elimination otherwise.
    Removing an input that never varies costs nothing; its channels then keep their order.

    Args:
        spec: The dense model.
        layer: Which layer.
        weights: The output projections of the sublayers, [hidden_size, channels].
        covariances: Centred covariances of their inputs, float64 [channels, channels], contiguous. They are
            overwritten.
        ridge: Ridge of the refit, as a fraction of the sum of the variances of an input's channels; positive.
        device: Where this is computed.

    Raises:
        UsageError: The ridge is not positive and finite, or too small for a covariance.
        ValueError: A covariance is not finite or has the wrong shape.
    """
    if not 0.0 < ridge < math.inf:
        raise UsageError(f"ridge {ridge} is out of range; give a positive number")
    shape = layer_shape(spec, layer)
    for output, weight in weights.items():
        covariance = covariances[output]
        if covariance.shape != (weight.shape[1],) * 2 or not bool(covariance.isfinite().all()):
            raise ValueError("a covariance must be finite, and as wide as the weight's input")
    of_attention, of_mlp = (
        (weights[output].to(device), covariances[output].to(device)) for output in (Attention.output, Mlp.output)
    )
    return LayerOptions(shape, _eliminate_heads(shape, *of_attention, ridge), *eliminate_neurons(*of_mlp, ridge))


def eliminate_neurons(
    weight: torch.Tensor, covariance: torch.Tensor, ridge: float, fraction: float = _FRACTION
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Backward elimination of input channels.

    Those whose removal increases the loss least go first, a fraction of the channels left at a time (at least one),
    and then the increases are computed again. The work of each round shrinks with the square of what is left.

    Args:
        weight: Weight, [out, channels], on the covariance's device.
        covariance: Centred covariance of the input, float64 [channels, channels].
        ridge: Fraction of the sum of the variances.
        fraction: Fraction of the remaining channels removed per round; 0 removes them one by one, which is the slowest
            and most careful choice.

    Returns:
        All channels, the last removed first, int64 [channels]; the loss for each number of channels kept, float64
        [channels + 1]. Where the loss would fall as channels are removed (see `Refit`), it stays.

    Raises:
        UsageError: The ridge is too small for the covariance.
    """
    channels, total = weight.shape[1], float(covariance.trace())
    if not total > 0.0:
        return np.arange(channels), np.zeros(channels + 1)
    # On the scale where the sum is 1, single precision neither overflows nor vanishes.
    scaled = torch.empty_like(covariance, dtype=torch.float32 if ridge >= _SINGLE_PRECISION_RIDGE else torch.float64)
    order = removal_order(weight, torch.div(covariance, total, out=scaled), ridge, fraction).flip(0)
    losses = removal_losses(weight, torch.div(covariance, total, out=scaled), ridge, order).mul_(total)
    loss = losses.flip(0).cummax(0).values.flip(0)
    return order.cpu().numpy(), loss.cpu().numpy()


def removal_order(weight: torch.Tensor, covariance: torch.Tensor, ridge: float, fraction: float) -> torch.Tensor:
    """All channels, the first removed first, int64 [channels]; the arguments are those of `Refit`."""
    refit = Refit(weight, covariance, ridge)
    removed: list[torch.Tensor] = []
    while len(left := refit.left):
        lowest = torch.sort(refit.increases(), stable=True).indices[: max(1, int(fraction * len(left)))]
        removed.append(left[lowest])
        refit.remove(left[lowest])
    return torch.cat(removed)


def _eliminate_heads(
    shape: LayerShape, weight: torch.Tensor, covariance: torch.Tensor, ridge: float
) -> tuple[AttentionOption, ...]:
    """An option for every (groups, heads per group), smallest first."""
    layer = shape.attention
    if not float(covariance.diagonal().sum()) > 0.0:
        return attention_options(shape, np.zeros(layer.num_attention_heads))
    strength = ridge * float(covariance.trace())
    number = sum(
        math.comb(layer.num_key_value_heads, groups) * math.comb(layer.heads_per_group, heads) ** groups
        for groups, heads in _sizes(shape)
    )
    choose = _best_sets if number <= _EXACT_SETS else _greedy_sets
    options = [
        AttentionOption(
            kv_groups=tuple(sorted({head // layer.heads_per_group for head in heads})),
            heads=heads,
            weights=shape.attention_weights(groups * in_group, groups),
            loss=max(loss, 0.0),  # negative by rounding only
        )
        for (groups, in_group), (heads, loss) in choose(shape, weight, covariance, strength).items()
    ]
    return tuple(sorted(options, key=lambda option: option.weights))


#: For every (groups, heads per group), the heads that are kept and the loss.
_Chosen = dict[tuple[int, int], tuple[tuple[int, ...], float]]


def _sizes(shape: LayerShape) -> Iterator[tuple[int, int]]:
    layer = shape.attention
    return itertools.product(range(1, layer.num_key_value_heads + 1), range(1, layer.heads_per_group + 1))


def _best_sets(shape: LayerShape, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> _Chosen:
    """The set with the least loss for every size, by trying them all."""
    losses = SetLosses(weight, covariance, ridge, shape.attention.head_dim)
    chosen: _Chosen = {}
    for groups, heads in _sizes(shape):
        tried = [(heads_kept, losses.loss(heads_kept)) for heads_kept in _sets(shape, groups, heads)]
        chosen[groups, heads] = min(tried, key=lambda pair: pair[1])
    return chosen


def _sets(shape: LayerShape, groups: int, heads: int) -> Iterator[tuple[int, ...]]:
    """Every set of this many query heads in this many KV groups."""
    layer = shape.attention
    for kept_groups in itertools.combinations(range(layer.num_key_value_heads), groups):
        members = [itertools.combinations(_group(shape, group), heads) for group in kept_groups]
        for parts in itertools.product(*members):
            yield tuple(itertools.chain(*parts))


def _greedy_sets(shape: LayerShape, weight: torch.Tensor, covariance: torch.Tensor, ridge: float) -> _Chosen:
    """For every number of heads per group: removes heads one by one down to that number, then whole groups."""
    layer, refit = shape.attention, Refit(weight, covariance, ridge)
    heads_left, loss = list(range(layer.num_attention_heads)), 0.0
    chosen: _Chosen = {}
    for heads in range(layer.heads_per_group, 0, -1):
        while len(heads_left) > layer.num_key_value_heads * heads:
            candidates = [[head] for head in heads_left if len(_kept_with(shape, heads_left, head)) > heads]
            heads_left, loss = _without_least(shape, refit, heads_left, loss, candidates)
        chosen[layer.num_key_value_heads, heads] = tuple(heads_left), loss
        fewer, fewer_loss, rest = heads_left, loss, refit.copy() if heads > 1 else refit
        for groups in range(layer.num_key_value_heads - 1, 0, -1):
            by_group = [list(part) for _, part in itertools.groupby(fewer, lambda head: head // layer.heads_per_group)]
            fewer, fewer_loss = _without_least(shape, rest, fewer, fewer_loss, by_group)
            chosen[groups, heads] = tuple(fewer), fewer_loss
    return chosen


def _without_least(
    shape: LayerShape, refit: Refit, heads_left: Sequence[int], loss: float, candidates: Sequence[Sequence[int]]
) -> tuple[list[int], float]:
    """Removes the candidate, a set of heads, that increases the loss least; the heads left and the loss."""
    device = refit.left.device
    least = min(candidates, key=lambda heads: float(refit.increase(_channels(shape, heads, device))))
    loss += float(refit.remove(_channels(shape, least, device)))
    return [head for head in heads_left if head not in least], loss


def _kept_with(shape: LayerShape, heads_left: Sequence[int], head: int) -> list[int]:
    """The kept heads of a head's KV group."""
    return [other for other in heads_left if other in _group(shape, head // shape.attention.heads_per_group)]


def _group(shape: LayerShape, group: int) -> range:
    size = shape.attention.heads_per_group
    return range(group * size, (group + 1) * size)


def _channels(shape: LayerShape, heads: Sequence[int], device: torch.device) -> torch.Tensor:
    """The channels that belong to some heads, int64."""
    first = torch.tensor(heads, device=device)[:, None] * shape.attention.head_dim
    return (first + torch.arange(shape.attention.head_dim, device=device)).flatten()
