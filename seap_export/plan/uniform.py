"""One shape for all layers, for programs that support only models whose layers are alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from seap_export.errors import UsageError
from seap_export.families import Attention, ModelSpec
from seap_export.plan.options import AttentionOption, LayerOptions
from seap_export.plan.plan import LayerPlan
from seap_export.plan.settings import BALANCES, Balance
from seap_export.plan.solve import RATIO_TOLERANCE, check_ratio, keeps_heads
from seap_export.plan.sparsity import EVEN

__all__ = ["solve_uniform"]

#: KV groups, and query heads in each of them.
_Heads = tuple[int, int]


@dataclass(frozen=True)
class _Shape:
    """A shape that all layers could have.

    Attributes:
        heads: KV groups, and query heads in each.
        neurons: MLP neurons.
        achieved: Fraction of a layer's weights that is removed.
        attention: Fraction of a layer's attention weights that is removed.
        loss: Sum over all layers of attention loss and MLP loss, each times its sensitivity.
    """

    heads: _Heads
    neurons: int
    achieved: float
    attention: float
    loss: float


def solve_uniform(
    spec: ModelSpec,
    options: Sequence[LayerOptions],
    ratio: float,
    align: int,
    balance: Balance,
    sensitivity: npt.NDArray[np.float64],
) -> tuple[tuple[LayerPlan, ...], float]:
    """The plan of every layer, all of one shape, and the achieved ratio.

    For each number of KV groups and of heads in a group, the neurons take what is left of the budget, as nearly as
    the alignment allows. Among the shapes whose ratio is within the tolerance, or the nearest ones if none is,
    `balance` chooses: `loss` takes the one that loses least in all layers together, `alike` the one that removes most
    nearly the same fraction of attention as of everything. Each layer chooses which heads and neurons it keeps.

    Args:
        spec: The dense model.
        options: The ways to shrink each layer.
        ratio: Fraction of the weights of all attention and MLP projections to remove; 0 keeps everything.
        align: Neuron counts are multiples of this where they are cut.
        balance: How heads and neurons share the budget.
        sensitivity: Importance of a unit of loss in each layer's attention and MLP, float64 [layers, 2].

    Raises:
        UsageError: The ratio is out of range or out of reach, or the dense layers are not alike.
        ValueError: The sensitivity has another shape, or is not finite, or negative; or there is no such balance.
    """
    if sensitivity.shape != (len(options), 2) or not np.isfinite(sensitivity).all() or (sensitivity < 0.0).any():
        raise ValueError("sensitivity must be finite, not negative, and of shape [layers, 2]")
    if balance not in BALANCES:
        raise ValueError(f"balance must be one of {BALANCES}")
    first = options[0].shape
    if len({_sizes(layer) for layer in options}) != 1:
        raise UsageError("the layers of this model differ in shape; leave out --layout uniform")
    check_ratio(spec, ratio, EVEN, align, "uniform")
    by_heads = [{_heads(option): option for option in layer.attention} for layer in options]
    whole = (first.attention.num_key_value_heads, first.attention.heads_per_group)
    shape = _Shape(whole, first.mlp.intermediate_size, 0.0, 0.0, 0.0)
    if ratio > 0.0:
        shapes = list(_shapes(spec, options, by_heads, ratio, align, sensitivity))
        shape = _chosen(shapes, ratio, balance)
    plans = [layer.plan(first[shape.heads], shape.neurons) for layer, first in zip(options, by_heads, strict=True)]
    return tuple(plans), shape.achieved


def _sizes(options: LayerOptions) -> tuple[int, int, int]:
    shape = options.shape
    return shape.attention.num_attention_heads, shape.attention.num_key_value_heads, shape.mlp.intermediate_size


def _heads(option: AttentionOption) -> _Heads:
    return len(option.kv_groups), len(option.heads) // len(option.kv_groups)


def _shapes(
    spec: ModelSpec,
    options: Sequence[LayerOptions],
    by_heads: Sequence[Mapping[_Heads, AttentionOption]],
    ratio: float,
    align: int,
    sensitivity: npt.NDArray[np.float64],
) -> Iterator[_Shape]:
    """For each pair of KV groups and heads that every layer can have, the number of neurons nearest to the ratio."""
    first = options[0].shape
    all_attention = first.attention_weights(first.attention.num_attention_heads, first.attention.num_key_value_heads)
    counts = np.append(np.arange(align, first.mlp.intermediate_size, align), first.mlp.intermediate_size)
    mlp_losses = sensitivity[:, 1] @ np.stack([layer.neuron_loss[counts] for layer in options])
    for heads in by_heads[0]:
        groups, each = heads
        if not all(heads in layer for layer in by_heads) or not _loads(spec, groups * each):
            continue
        attention = first.attention_weights(groups * each, groups)
        weights = attention + counts * first.neuron_weights
        step = int(np.argmin(np.abs(weights - (1.0 - ratio) * first.total_weights)))
        losses = np.array([layer[heads].loss for layer in by_heads])
        yield _Shape(
            heads=heads,
            neurons=int(counts[step]),
            achieved=1.0 - int(weights[step]) / first.total_weights,
            attention=1.0 - attention / all_attention,
            loss=float(sensitivity[:, 0] @ losses + mlp_losses[step]),
        )


def _loads(spec: ModelSpec, heads: int) -> bool:
    """Whether the family's transformers class takes this number of query heads."""
    if keeps_heads(spec) and heads != spec.first(Attention).num_attention_heads:
        return False
    return not spec.family.heads_divide_hidden_size or spec.hidden_size % heads == 0


def _chosen(shapes: Sequence[_Shape], ratio: float, balance: Balance) -> _Shape:
    nearest = min(abs(shape.achieved - ratio) for shape in shapes)
    reach = max(nearest, RATIO_TOLERANCE)
    near = [shape for shape in shapes if abs(shape.achieved - ratio) <= reach]
    if balance == "alike":
        return min(near, key=lambda shape: (abs(shape.attention - ratio), shape.loss))
    return min(near, key=lambda shape: shape.loss)
