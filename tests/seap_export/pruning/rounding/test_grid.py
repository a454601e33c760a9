"""Which grid a matrix gets."""

from __future__ import annotations

import itertools

import pytest

from seap_export.pruning.rounding.grid import BlockQuantization


def test_only_products_of_layers_have_rows_of_one_step() -> None:
    for bits, expected in ((8, BlockQuantization(8, 0)), (4, BlockQuantization(4, rows=True))):
        how = BlockQuantization(bits, rows=True)
        assert how.of("model.layers.1.mlp.up_proj.weight") == expected
        assert how.of("model.embed_tokens.weight") == BlockQuantization(bits)
    with pytest.raises(ValueError, match="4 or 8 bits, and no zero points"):
        BlockQuantization(6, rows=True)


def test_what_a_grid_takes() -> None:
    assert BlockQuantization(4).takes(80)
    assert not BlockQuantization(4, whole_blocks=True).takes(80)
    assert BlockQuantization(4, whole_blocks=True).takes(96)


def test_names_tell_grids_apart() -> None:
    both = (True, False)
    grids = [
        BlockQuantization(*values) for values in itertools.product((4, 8), (32, 64), *[both] * 2, *[both[::-1]] * 2)
    ]
    assert len({grid.name for grid in grids}) == len(grids)
    assert grids[0].name == "int4-32"
