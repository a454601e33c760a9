"""One shape for all layers, for programs that support only models whose layers are alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seap_export.errors import UsageError
from seap_export.families import ModelSpec, Sublayer
from seap_export.plan.adaptive import check_sensitivity
from seap_export.plan.cost import CostModel
from seap_export.plan.plan import LayerPlan
from seap_export.plan.settings import BALANCES, Balance
from seap_export.plan.solve import RATIO_TOLERANCE, check_ratio
from seap_export.plan.sparsity import EVEN
from seap_export.plan.sublayers import LayerOptions, Options, options_type

__all__ = ["solve_uniform"]

_WEIGHTS = CostModel()


@dataclass(frozen=True)
class _Shape:
    """A shape that all layers could have.

    Attributes:
        sublayers: The shrunk sublayers.
        achieved: Fraction of a layer's weights that is removed.
        removed: The same of each sublayer but the last.
        loss: Sum of the losses of all sublayers of all layers, each times its sensitivity.
    """

    sublayers: tuple[Sublayer, ...]
    achieved: float
    removed: tuple[float, ...]
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

    For each choice of sizes of the others, such as KV groups and heads, the last sublayer, such as the MLP, takes what
    is left of the budget, as nearly as the alignment allows. Among the shapes whose ratio is within the
    tolerance, or the nearest ones if none is, `balance` chooses: `loss` takes the one that loses least in all layers
    together, `alike` the one that removes most nearly the same fraction of the others as of everything. Each layer
    chooses which heads and neurons it keeps.

    Args:
        spec: The dense model.
        options: The ways to shrink each layer.
        ratio: Fraction of the weights of all projections to remove; 0 keeps everything.
        align: Numbers of single channels, such as neurons, are multiples of this where they are cut.
        balance: How the sublayers share the budget.
        sensitivity: Importance of a unit of loss in each sublayer, float64 [layers, sublayers].

    Raises:
        UsageError: The ratio is out of range or out of reach, or the dense layers are not alike.
        ValueError: The sensitivity has another shape, or is not finite, or negative; or there is no such balance.
    """
    check_sensitivity(sensitivity, [len(layer) for layer in options])
    if balance not in BALANCES:
        raise ValueError(f"balance must be one of {BALANCES}")
    if len({tuple(layer.sizes.items()) for layer in spec.layers}) != 1:
        raise UsageError("the layers of this model differ in shape; leave out --layout uniform")
    check_ratio(spec, ratio, EVEN, align, "uniform")
    aligned = [tuple(own.aligned(align) for own in layer) for layer in options]
    shape = _Shape(spec.layers[0].sublayers, 0.0, (), 0.0)
    if ratio > 0.0:
        shape = _chosen(list(_shapes(spec, aligned, ratio, sensitivity)), ratio, balance)
    wanted = [_sizes(sublayer) for sublayer in shape.sublayers]
    plans = [
        LayerPlan(tuple(own.kept(_by_sizes(own)[sizes]) for own, sizes in zip(layer, wanted, strict=True)))
        for layer in aligned
    ]
    return tuple(plans), shape.achieved


#: The sizes of a sublayer.
_Sizes = tuple[int, ...]


def _sizes(sublayer: Sublayer) -> _Sizes:
    return tuple(sublayer.sizes.values())


def _by_sizes(options: Options[Any]) -> dict[_Sizes, int]:
    """The option that leaves each size; windows and rotations may differ between layers."""
    return {_sizes(options.shrunk(option)): option for option in range(len(options.losses))}


def _shapes(
    spec: ModelSpec, options: Sequence[LayerOptions], ratio: float, sensitivity: npt.NDArray[np.float64]
) -> Iterator[_Shape]:
    """For each choice of sizes of the other sublayers that every layer can have, the nearest size of the last."""
    *others, last = range(len(options[0]))
    costs = [own.costs(_WEIGHTS) for own in options[0]]
    total = sum(int(own[-1]) for own in costs)
    by_sizes = [[_by_sizes(layer[index]) for layer in options] for index in others]
    last_losses = sensitivity[:, last] @ np.stack([layer[last].losses for layer in options])
    for sizes in itertools.product(*(layers[0] for layers in by_sizes)):
        if not all(one in layer for one, layers in zip(sizes, by_sizes, strict=True) for layer in layers):
            continue
        chosen = [[layer[one] for layer in layers] for one, layers in zip(sizes, by_sizes, strict=True)]
        shrunk = [options[0][index].shrunk(own[0]) for index, own in zip(others, chosen, strict=True)]
        if not all(options_type(sublayer).is_loaded(spec, sublayer) for sublayer in shrunk):
            continue
        kept = [int(costs[index][own[0]]) for index, own in zip(others, chosen, strict=True)]
        weights = sum(kept) + costs[last]
        step = int(np.argmin(np.abs(weights - (1.0 - ratio) * total)))
        losses = [
            sensitivity[:, index]
            @ np.array([layer[index].losses[one] for layer, one in zip(options, own, strict=True)])
            for index, own in zip(others, chosen, strict=True)
        ]
        yield _Shape(
            sublayers=(*shrunk, options[0][last].shrunk(step)),
            achieved=1.0 - int(weights[step]) / total,
            removed=tuple(1.0 - own / int(costs[index][-1]) for index, own in zip(others, kept, strict=True)),
            loss=float(sum(losses) + last_losses[step]),
        )


def _chosen(shapes: Sequence[_Shape], ratio: float, balance: Balance) -> _Shape:
    nearest = min(abs(shape.achieved - ratio) for shape in shapes)
    reach = max(nearest, RATIO_TOLERANCE)
    near = [shape for shape in shapes if abs(shape.achieved - ratio) <= reach]
    if balance == "alike":
        return min(near, key=lambda shape: (sum(abs(own - ratio) for own in shape.removed), shape.loss))
    return min(near, key=lambda shape: shape.loss)
