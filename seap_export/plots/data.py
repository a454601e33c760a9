"""The data of the figures of plans: what is removed where, and how much variants share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from seap_export.families import Attention, LayerSpec, Mlp, ModelSpec
from seap_export.plan.plan import LayerPlan, Plan

__all__ = [
    "PARTS",
    "DrawnVariant",
    "Overlap",
    "Part",
    "Removed",
    "by_ratio",
    "overlap",
    "removed_by_layer",
    "short_names",
]

Part = Literal["heads", "neurons"]
PARTS: tuple[Part, ...] = ("heads", "neurons")
Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class DrawnVariant:
    """A plan and the model that it prunes.

    Attributes:
        name: The variant's name, which becomes part of file names.
        plan: The plan.
        dense: The shapes of the model before pruning.

    Raises:
        ArtifactError: The plan does not fit the model.
    """

    name: str
    plan: Plan
    dense: ModelSpec

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise ValueError("a variant needs a name without '/'")
        self.plan.shrunk_spec(self.dense)


@dataclass(frozen=True)
class Removed:
    """The removed fraction, 0 to 1, of each layer's projection weights; one value per layer.

    Attributes:
        attention: Fraction of all projections of attention together.
        mlp: Fraction of all of the MLP.
        total: Fraction of all.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    total: tuple[float, ...]

    def __post_init__(self) -> None:
        if len({len(self.attention), len(self.mlp), len(self.total)}) != 1:
            raise ValueError("attention, mlp and total must each have one value per layer")
        if not all(0.0 <= value < 1.0 for value in (*self.attention, *self.mlp, *self.total)):
            raise ValueError("a removed fraction must be at least 0 and below 1")


@dataclass(frozen=True)
class Overlap:
    """How much of the kept heads or neurons each pair of variants shares; matrices in the order of `names`.

    Attributes:
        names: The variants.
        jaccard: Jaccard index; None if neither variant cuts a layer.
        chance: Expected index if both chose at random, keeping the same numbers in each layer.
    """

    names: tuple[str, ...]
    jaccard: Matrix
    chance: Matrix

    def __post_init__(self) -> None:
        for matrix in (self.jaccard, self.chance):
            if len(matrix) != len(self.names) or any(len(row) != len(self.names) for row in matrix):
                raise ValueError("an overlap needs one row and one column per variant")
            if not all(value is None or 0.0 <= value <= 1.0 for row in matrix for value in row):
                raise ValueError("a Jaccard index must be from 0 to 1")


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


def removed_by_layer(variant: DrawnVariant) -> Removed:
    """The fraction of each layer's weights that a variant removes, without norms and biases."""
    shrunk = variant.plan.shrunk_spec(variant.dense)

    def fractions(weights: Callable[[ModelSpec, int], int]) -> tuple[float, ...]:
        return tuple(
            1.0 - weights(shrunk, layer) / weights(variant.dense, layer) for layer in range(len(variant.dense.layers))
        )

    return Removed(
        fractions(lambda spec, layer: spec.sublayer_weights(layer)[Attention.output]),
        fractions(lambda spec, layer: spec.sublayer_weights(layer)[Mlp.output]),
        fractions(ModelSpec.prunable_weights),
    )


def overlap(variants: Sequence[DrawnVariant], part: Part) -> Overlap:
    """The Jaccard index of the kept heads or neurons of each pair of variants, over the layers that are cut.

    Let A_l and B_l be what the two keep of layer l, where l runs over the layers in which at least one of them cuts
    heads (or neurons): J = sum_l |A_l & B_l| / sum_l |A_l | B_l|. Layers left whole by both would only push J towards
    1. If they keep a_l and b_l of n_l, random choices share a_l b_l / n_l on average. `chance` is the ratio of the
    expected sums, sum_l a_l b_l / n_l over sum_l (a_l + b_l - a_l b_l / n_l).

    Args:
        variants: Variants of one model.
        part: What to compare: heads or neurons.
    """
    pairs = [[_pair(first, second, part) for second in variants] for first in variants]
    return Overlap(
        names=tuple(variant.name for variant in variants),
        jaccard=tuple(tuple(index for index, _ in row) for row in pairs),
        chance=tuple(tuple(chance for _, chance in row) for row in pairs),
    )


def _pair(first: DrawnVariant, second: DrawnVariant, part: Part) -> tuple[float | None, float | None]:
    shared = united = 0
    expected_shared = expected_united = 0.0
    for dense, layer, other in zip(first.dense.layers, first.plan.layers, second.plan.layers, strict=True):
        a, b, number = _kept(layer, part), _kept(other, part), _dense_number(dense, part)
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


def _kept(layer: LayerPlan, part: Part) -> set[int]:
    return set(layer.heads if part == "heads" else layer.neurons)


def _dense_number(dense: LayerSpec, part: Part) -> int:
    return dense[Attention].num_attention_heads if part == "heads" else dense[Mlp].intermediate_size
