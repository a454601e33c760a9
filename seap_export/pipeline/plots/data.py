"""The data of the figures of plans: what is removed where, and how much variants share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seap_export.model.families import ModelSpec
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.plan import Plan
from seap_export.pruning.plan.sublayers import Kept, kinds_in

#: One value per layer; None: the layer has no sublayer of this kind.
ByLayer = tuple[float | None, ...]
Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class DrawnVariant:
    """A plan and the model that it prunes."""

    name: str
    plan: Plan
    dense: ModelSpec


@dataclass(frozen=True)
class Removed:
    """The removed fraction, 0 to 1, of each layer's projection weights; one value per layer.

    Attributes:
        sublayers: By the name of a kind of sublayer, in lower case, the fraction of its projections together.
        total: The fraction of all projections of the layer together.
    """

    sublayers: Mapping[str, ByLayer]
    total: tuple[float, ...]


@dataclass(frozen=True)
class Overlap:
    """How much of the kept units, such as heads, each pair of variants shares; matrices in the order of `names`."""

    names: tuple[str, ...]
    jaccard: Matrix
    chance: Matrix


def by_ratio(variants: Sequence[DrawnVariant]) -> dict[float, tuple[DrawnVariant, ...]]:
    """Groups the variants by requested ratio, in ascending order; within a group, variants keep their order."""
    groups: dict[float, list[DrawnVariant]] = {}
    for variant in variants:
        groups.setdefault(float(f"{variant.plan.requested_ratio:g}"), []).append(variant)
    return {ratio: tuple(groups[ratio]) for ratio in sorted(groups)}


def short_names(variants: Sequence[DrawnVariant]) -> tuple[str, ...]:
    """The variants' tasks if these are distinct, otherwise their names."""
    tasks = tuple(variant.plan.task for variant in variants)
    return tasks if len(set(tasks)) == len(tasks) else tuple(variant.name for variant in variants)


def kinds_of(variant: DrawnVariant) -> tuple[type[Kept], ...]:
    """The kinds of sublayers that a variant's layers contain, such as attention and MLP."""
    return kinds_in(layer.sizes for layer in variant.plan.layers)


def number_kept(variant: DrawnVariant, kind: type[Kept]) -> list[int | None]:
    """How many units of a kind, such as heads, each layer keeps; None: it has no such sublayer."""
    by_kind = ({type(kept): len(kept.units) for kept in layer.sublayers} for layer in variant.plan.layers)
    return [numbers.get(kind) for numbers in by_kind]


def removed_by_layer(variant: DrawnVariant) -> Removed:
    """The fraction of each layer's weights that a variant removes, without norms and biases."""
    shrunk, dense = variant.plan.shrunk_spec(variant.dense), variant.dense
    layers = range(len(dense.layers))

    def of_kind(output: Projection) -> ByLayer:
        kept, whole = ([spec.sublayer_weights(layer).get(output) for layer in layers] for spec in (shrunk, dense))
        return tuple(1.0 - one / other if one and other else None for one, other in zip(kept, whole, strict=True))

    total = (1.0 - shrunk.prunable_weights(layer) / dense.prunable_weights(layer) for layer in layers)
    return Removed({kind.name.lower(): of_kind(kind.kind.output) for kind in kinds_of(variant)}, tuple(total))


def overlap(variants: Sequence[DrawnVariant], kind: type[Kept]) -> Overlap:
    """The Jaccard index of the kept units, such as heads, of each pair of variants, over the layers that are cut.

    Let A_l and B_l be what the two keep of layer l, where l runs over the layers in which at least one of them cuts
    some: J = sum_l |A_l & B_l| / sum_l |A_l | B_l|. Layers left whole by both would only push J towards
    1. If they keep a_l and b_l of n_l, random choices share a_l b_l / n_l on average. `chance` is the ratio of the
    expected sums, sum_l a_l b_l / n_l over sum_l (a_l + b_l - a_l b_l / n_l).
    """
    pairs = [[_pair(first, second, kind) for second in variants] for first in variants]
    return Overlap(
        names=tuple(variant.name for variant in variants),
        jaccard=tuple(tuple(index for index, _ in row) for row in pairs),
        chance=tuple(tuple(chance for _, chance in row) for row in pairs),
    )


def _pair(first: DrawnVariant, second: DrawnVariant, kind: type[Kept]) -> tuple[float | None, float | None]:
    shared = united = 0
    expected_shared = expected_united = 0.0
    for dense, layer, other in zip(first.dense.layers, first.plan.layers, second.plan.layers, strict=True):
        if kind.kind.output not in dense.outputs:
            continue
        a, b = set(layer[kind].units), set(other[kind].units)
        whole = dense.named(kind.kind.output)
        number = whole.channels // whole.unit
        if min(len(a), len(b)) == number:
            continue
        shared += len(a & b)
        united += len(a | b)
        expected = len(a) * len(b) / number
        expected_shared += expected
        expected_united += len(a) + len(b) - expected
    if not united:
        return None, None
    if first is second:
        return 1.0, 1.0  # only one choice is possible
    return shared / united, expected_shared / expected_united
