"""Chooses one shape for all layers, for programs that support only models whose layers are alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec, Sublayer
from seap_export.model.families.names import Projection
from seap_export.model.families.sublayers import Grouped
from seap_export.pruning.plan.choice.adaptive import check_sensitivity
from seap_export.pruning.plan.choice.solve import RATIO_TOLERANCE, check_ratio
from seap_export.pruning.plan.cost import CostModel
from seap_export.pruning.plan.plan import LayerPlan
from seap_export.pruning.plan.settings import BALANCES, Balance
from seap_export.pruning.plan.sparsity import EVEN
from seap_export.pruning.plan.sublayers import LayerOptions, Options, alike, options_type

_WEIGHTS = CostModel()
#: The sizes of a sublayer.
_Sizes = tuple[int, ...]


@dataclass(frozen=True)
class _Shape:
    """A shape that all layers could have.

    Attributes:
        achieved: Fraction of the weights that is removed.
        removed: Fraction of the weights that is removed of each kind of sublayer but the last.
    """

    sizes: Mapping[Projection, _Sizes]
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

    All sublayers of a kind get the same sizes. For each choice of those of the others, such as KV groups and heads,
    the last kind, such as the MLP, takes what is left of the budget, as nearly as the alignment allows. Among the
    shapes whose ratio is within the tolerance, or the nearest ones if none is, `balance` chooses: `loss` takes the one
    that loses least in all layers together, `alike` the one that removes most nearly the same fraction of the others
    as of everything. Each layer chooses which heads and neurons it keeps.

    Args:
        ratio: Fraction of the weights of all projections to remove; 0 keeps everything.
        align: Numbers of single channels, such as neurons, are multiples of this where they are cut.
        balance: How the sublayers share the budget.
        sensitivity: Importance of a unit of loss in each sublayer, float64 [layers, sublayers].
    """
    check_sensitivity(sensitivity, [len(layer) for layer in options])
    if balance not in BALANCES:
        raise ValueError(f"balance must be one of {BALANCES}")
    if not alike(spec.sublayers):
        raise UsageError("the layers of this model differ in shape; leave out --layout uniform")
    check_ratio(spec, ratio, EVEN, align, "uniform")
    aligned = [tuple(sublayer.aligned(align) for sublayer in layer) for layer in options]
    sizes = {sublayer.output: _sizes(sublayer) for sublayer in spec.sublayers}
    shape = _Shape(sizes, 0.0, (), 0.0)
    if ratio > 0.0:
        shape = _chosen(list(_shapes(_kinds(spec, aligned, sensitivity), ratio)), ratio, balance)
    plans = [
        LayerPlan(tuple(sublayer.kept(_by_sizes(sublayer)[shape.sizes[sublayer.dense.output]]) for sublayer in layer))
        for layer in aligned
    ]
    return tuple(plans), shape.achieved


def _sizes(sublayer: Sublayer) -> _Sizes:
    return tuple(sublayer.sizes.values())


def _by_sizes(options: Options[Any]) -> dict[_Sizes, int]:
    """The option that leaves each size; windows and rotations may differ between layers."""
    return {_sizes(options.shrunk(option)): option for option in range(len(options.losses))}


@dataclass(frozen=True)
class _Kind:
    """The sublayers of one kind, which get the same sizes.

    Attributes:
        losses: The loss of all together at each of `sizes`, float64.
        weights: The weights of all together at each of `sizes`, over what the numbers of all kinds have in common,
            float64.
    """

    output: Projection
    sizes: Sequence[_Sizes]
    losses: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    whole: float


def _kinds(spec: ModelSpec, options: Sequence[LayerOptions], sensitivity: npt.NDArray[np.float64]) -> list[_Kind]:
    """The kinds of sublayers, in the order of use; that of the first layer that ends in single channels comes last."""
    members: dict[Projection, list[tuple[Options[Any], float]]] = {}
    for layer, importance in zip(options, sensitivity, strict=True):
        for sublayer, weight in zip(layer, importance, strict=False):  # layers may have fewer sublayers than the first
            members.setdefault(sublayer.dense.output, []).append((sublayer, weight))
    ends = [layer.sublayers[-1] for layer in spec.layers]
    last = next((end for end in ends if not isinstance(end, Grouped)), ends[0]).output
    common = math.gcd(*map(len, members.values()))
    kinds = []
    for output in sorted(members, key=lambda output: output == last):
        by_sizes = [_by_sizes(sublayer) for sublayer, _ in members[output]]
        first = members[output][0][0]
        sizes = [
            size
            for size, option in by_sizes[0].items()
            if all(size in each for each in by_sizes)
            and options_type(first.dense).is_loaded(spec, first.shrunk(option))
        ]
        chosen = [[each[size] for size in sizes] for each in by_sizes]
        weights = np.array([weight for _, weight in members[output]])
        losses = np.stack([sublayer.losses[each] for (sublayer, _), each in zip(members[output], chosen, strict=True)])
        costs = [sublayer.costs(_WEIGHTS) for sublayer, _ in members[output]]
        kept = np.sum([of_one[each] for of_one, each in zip(costs, chosen, strict=True)], axis=0) / common
        whole = sum(int(of_one[-1]) for of_one in costs) / common
        kinds.append(_Kind(output, sizes, weights @ losses, kept, whole))
    return kinds


def _shapes(kinds: Sequence[_Kind], ratio: float) -> Iterator[_Shape]:
    """For each choice of sizes of the other kinds, the nearest size of the last, or all that are near."""
    *others, last = kinds
    total = sum(kind.whole for kind in kinds)
    for chosen in itertools.product(*(range(len(kind.sizes)) for kind in others)):
        pairs = list(zip(others, chosen, strict=True))
        weights = sum(float(kind.weights[index]) for kind, index in pairs) + last.weights
        distances = np.abs(weights - (1.0 - ratio) * total)
        # sizes in two directions, such as experts and neurons, come to about the same weights in many ways
        reach = max(distances.min(), RATIO_TOLERANCE * total) if len(last.sizes[0]) > 1 else 0.0
        for step in {int(distances.argmin()), *np.flatnonzero(distances <= reach).tolist()}:
            yield _Shape(
                sizes={**{kind.output: kind.sizes[index] for kind, index in pairs}, last.output: last.sizes[step]},
                achieved=1.0 - float(weights[step]) / total,
                removed=tuple(1.0 - float(kind.weights[index]) / kind.whole for kind, index in pairs),
                loss=float(sum(kind.losses[index] for kind, index in pairs) + last.losses[step]),
            )


def _chosen(shapes: Sequence[_Shape], ratio: float, balance: Balance) -> _Shape:
    nearest = min(abs(shape.achieved - ratio) for shape in shapes)
    reach = max(nearest, RATIO_TOLERANCE)
    near = [shape for shape in shapes if abs(shape.achieved - ratio) <= reach]
    if balance == "alike":
        return min(near, key=lambda shape: (sum(abs(removed - ratio) for removed in shape.removed), shape.loss))
    return min(near, key=lambda shape: shape.loss)
