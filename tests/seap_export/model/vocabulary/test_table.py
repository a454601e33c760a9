"""Old and new ids, and how a plan holds them."""

from __future__ import annotations

import pytest

from seap_export.model.vocabulary.table import Vocabulary


@pytest.mark.parametrize(("kept", "of"), [((0,), 1), ((0, 2, 8, 15), 16), ((1, 3, 16), 17)])
def test_a_vocabulary_is_read_as_it_was_written(kept: tuple[int, ...], of: int) -> None:
    vocabulary = Vocabulary(kept, of)
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert vocabulary.to_json()["tokens"] == len(vocabulary) == len(kept)
    assert [vocabulary.new_ids[token] for token in kept] == list(range(len(kept)))
    assert vocabulary.rows.tolist() == list(kept)


def test_the_bits_are_in_order_and_impossible_or_damaged_ones_are_refused() -> None:
    bits = Vocabulary((0, 2, 8), 9).to_json()
    assert bits == {"tokens": 3, "of": 9, "kept": "oIA="}
    for kept in ((), (1, 1), (2, 1), (-1, 1), (0, 4)):
        with pytest.raises(ValueError, match="sorted list"):
            Vocabulary(kept, 4)
    for change in ({"kept": "!!"}, {"kept": "oA=="}, {"tokens": 2}, {"of": 40}, {"of": "9"}):
        with pytest.raises(ValueError, match="bits of its vocabulary"):
            Vocabulary.from_json({**bits, **change})
