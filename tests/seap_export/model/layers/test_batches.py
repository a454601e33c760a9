"""Batches hold every token once, little padding, and no more positions than allowed."""

from __future__ import annotations

import random

import pytest
import torch

from seap_export.model.layers.batches import Batch, length_buckets


def sequences() -> list[list[int]]:
    """Token ids from 0, the id that padding has too, to 9; some sequences are alike."""
    chance = random.Random(0)
    return [chance.choices(range(10), k=chance.randint(1, 40)) for _ in range(200)] + [[0], [0], [0, 0]]


def real_tokens(batch: Batch) -> list[list[int]]:
    return [ids[real].tolist() for ids, real in zip(batch.input_ids, batch.real, strict=True)]


@pytest.mark.parametrize("max_tokens", [1, 40, 200, 10**6])
def test_every_sequence_is_in_one_batch_whole_with_little_padding_in_any_order(max_tokens: int) -> None:
    batches = length_buckets(sequences(), max_tokens)
    assert sorted(ids for batch in batches for ids in real_tokens(batch)) == sorted(sequences())
    sizes = [batch.input_ids.numel() for batch in batches]
    assert max(sizes) <= max(max_tokens, 40)  # a longer sequence is a batch of its own
    assert max_tokens > 200 or sum(sizes) < 1.1 * sum(map(len, sequences()))
    shuffled = random.Random(1).sample(sequences(), len(sequences()))
    for ours, theirs in zip(length_buckets(shuffled, max_tokens), batches, strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids)


def test_a_batch_is_filled_before_the_next_is_begun() -> None:
    for texts, shapes in (
        ([[1, 2]] * 5, [(2, 2), (2, 2), (1, 2)]),
        ([[1] * 9, [2] * 9, [3]], [(1, 1), (1, 9), (1, 9)]),
        ([], []),
    ):
        assert [tuple(batch.input_ids.shape) for batch in length_buckets(texts, 4)] == shapes


def test_padding_is_on_the_right_and_packing_leaves_it_out() -> None:
    (batch,) = length_buckets([[7, 8, 9], [0], [1, 0]], 100)
    assert batch.input_ids.tolist() == [[0, 0, 0], [1, 0, 0], [7, 8, 9]]
    assert batch.real.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    values = torch.arange(18.0).reshape(3, 3, 2) + 1.0
    packed = batch.packed(values)
    assert packed.tolist() == values[batch.real].tolist()
    padded = batch.padded(packed)
    assert torch.equal(padded[batch.real], packed)
    assert not padded[~batch.real].any()
    for ids, real in (((2, 3), (2, 2)), ((3,), (3,))):
        with pytest.raises(ValueError, match="one shape"):
            Batch(torch.zeros(ids, dtype=torch.long), torch.ones(real, dtype=torch.bool))
