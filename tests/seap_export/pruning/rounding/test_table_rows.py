"""The rows of a table with the same bits are a part of it, and each row has its place."""

from __future__ import annotations

import pytest
import torch

from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.table_rows import TableRows

TABLE = TableRows("lm_head.weight", 64, "24832442")


def test_parts_lie_one_below_the_other_most_bits_first() -> None:
    assert [(part.name, part.bits) for part in TABLE.parts] == [
        (f"lm_head.weight.{bits}", bits) for bits in (8, 4, 3, 2)
    ]
    stored = torch.cat([part.rows for part in TABLE.parts])
    assert stored.tolist() == [2, 1, 5, 6, 3, 0, 4, 7]
    assert torch.equal(stored[TABLE.places.long()], torch.arange(8))


def test_a_grid_knows_the_parts_and_comes_back_from_json() -> None:
    how = BlockQuantization(4, average=3.5, splits_tables=True, tables=(TABLE,))
    assert BlockQuantization(**how.to_json()) == how
    assert [how.of(part.name).bits for part in how.parts(TABLE.name)] == [8, 4, 3, 2]
    assert how.of(TABLE.name).block_size == 64
    assert not how.parts("model.embed_tokens.weight")
    assert "tables" not in BlockQuantization(4).to_json()


@pytest.mark.parametrize("bits", ["", "47", "4x", "1"])
def test_other_digits_are_refused(bits: str) -> None:
    with pytest.raises(ValueError, match=r"lm_head\.weight.*digits from 2 to 6, or 8"):
        TableRows("lm_head.weight", 64, bits)
