from __future__ import annotations

from collections.abc import Callable

import pytest
from support.product import KeptHeads, KeptNeurons

from seap_export.pipeline.plots.data import (
    DrawnVariant,
    overlap,
    removed_by_layer,
)

Make = Callable[..., DrawnVariant]
#: Layer 1 cut in both parts, layer 2 in neurons only.
A = {1: ([0, 2], [0, 4], range(0, 64)), 2: (range(3), range(6), range(0, 48))}
B = {1: ([0, 1], [0, 1, 2, 3], range(16, 80))}


def test_removed_weights_against_the_tensors(make_variant: Make) -> None:
    """Counted in the tensors that the shrunk and the dense model store."""
    variant = make_variant("a", "a-0.2", A)
    shrunk, dense = variant.plan.shrunk_spec(variant.dense).tensors(), variant.dense.tensors()
    removed = removed_by_layer(variant)
    of_sublayers = removed.sublayers
    for name, values, parts in (
        ("attention", of_sublayers["attention"], "qkvo"),
        ("mlp", of_sublayers["mlp"], ("gate", "up", "down")),
        ("total", removed.total, None),
    ):
        for layer in range(3):
            left = whole = 0
            for tensor, shape in dense.items():
                part = tensor.split(".")[-2].removesuffix("_proj")
                if f"layers.{layer}." in tensor and "_proj.weight" in tensor and (parts is None or part in parts):
                    whole += shape[0] * shape[1]
                    left += shrunk[tensor][0] * shrunk[tensor][1]
            assert values[layer] == pytest.approx(1 - left / whole, abs=1e-12), (name, layer)


def test_overlap_is_the_jaccard_index_over_the_layers_that_are_cut(make_variant: Make) -> None:
    first, second = make_variant("a", "a-0.2", A), make_variant("b", "b-0.2", B)
    neurons = overlap([first, second], KeptNeurons)
    # layer 1: 0-63 and 16-79; layer 2: 0-47 and all 80, cut by the first alone; layer 0 does not count
    assert neurons.jaccard[0][1] == (48 + 48) / (80 + 80)
    shared = 64 * 64 / 80 + 48 * 80 / 80
    assert neurons.chance[0][1] == pytest.approx(shared / (64 + 64 + 48 + 80 - shared))
    heads = overlap([first, second], KeptHeads)
    assert heads.jaccard[0][1] == 1 / 5  # {0, 4} and {0, 1, 2, 3}
    assert heads.chance[0][1] == pytest.approx((2 * 4 / 6) / (2 + 4 - 2 * 4 / 6))
    for sets in (neurons, heads):
        assert sets.names == ("a-0.2", "b-0.2")
        assert sets.jaccard[1][0] == sets.jaccard[0][1]
        assert sets.jaccard[0][0] == sets.jaccard[1][1] == 1.0


def test_overlap_of_parts_that_nobody_cuts_is_not_defined(make_variant: Make) -> None:
    only_neurons = {0: (range(3), range(6), range(16))}
    variants = [make_variant(task, task, only_neurons) for task in "ab"]
    assert overlap(variants, KeptHeads).jaccard == ((None, None), (None, None))
    assert overlap(variants, KeptHeads).chance == ((None, None), (None, None))
    assert overlap(variants, KeptNeurons).jaccard == ((1.0, 1.0), (1.0, 1.0))
    assert overlap(variants, KeptNeurons).chance[0][1] == pytest.approx((16 / 5) / (32 - 16 / 5))
