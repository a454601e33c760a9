"""Which grid a matrix gets."""

from __future__ import annotations

import itertools

import pytest
import torch

from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.table_rows import TableRows


def test_only_products_of_layers_have_rows_of_one_step() -> None:
    for bits, expected in ((8, BlockQuantization(8, 0)), (4, BlockQuantization(4, rows=True))):
        how = BlockQuantization(bits, rows=True)
        assert how.of("model.layers.1.mlp.up_proj.weight") == expected
        assert how.of("model.embed_tokens.weight") == BlockQuantization(bits)
    with pytest.raises(ValueError, match="4 or 8 bits, and no zero points"):
        BlockQuantization(6, rows=True)


TABLE = TableRows("lm_head.weight", 64, "24832442")


def test_rows_of_a_table_with_the_same_bits_are_a_part_of_it_and_each_has_its_place() -> None:
    """Parts lie one below the other, most bits first; a grid knows them and comes back from JSON."""
    assert [(part.name, part.bits) for part in TABLE.parts] == [
        (f"lm_head.weight.{bits}", bits) for bits in (8, 4, 3, 2)
    ]
    stored = torch.cat([part.rows for part in TABLE.parts])
    assert stored.tolist() == [2, 1, 5, 6, 3, 0, 4, 7]
    assert torch.equal(stored[TABLE.places.long()], torch.arange(8))
    how = BlockQuantization(4, average=3.5, splits_tables=True, tables=(TABLE,))
    assert BlockQuantization(**how.to_json()) == how
    assert [how.of(part.name).bits for part in how.parts(TABLE.name)] == [8, 4, 3, 2]
    assert how.of(TABLE.name).block_size == 64
    assert not how.parts("model.embed_tokens.weight")
    assert "tables" not in BlockQuantization(4).to_json()
    for bits in ("", "47", "4x", "1"):
        with pytest.raises(ValueError, match=r"lm_head\.weight.*digits from 2 to 6, or 8"):
            TableRows("lm_head.weight", 64, bits)


def test_names_tell_grids_apart() -> None:
    both = (True, False)
    grids = [
        BlockQuantization(*values) for values in itertools.product((4, 8), (32, 64), *[both] * 2, *[both[::-1]] * 2)
    ]
    assert len({grid.name for grid in grids}) == len(grids)
    assert grids[0].name == "int4-32"
    whole = BlockQuantization(4, whole_blocks=True)
    assert (BlockQuantization(4).takes(80), whole.takes(80), whole.takes(96)) == (True, False, True)
