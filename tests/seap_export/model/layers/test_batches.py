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


@pytest.mark.parametrize("max_tokens", [1, 40, 100, 10**6])
def test_every_sequence_is_in_one_batch_whole(max_tokens: int) -> None:
    batched = [ids for batch in length_buckets(sequences(), max_tokens) for ids in real_tokens(batch)]
    assert sorted(batched) == sorted(sequences())


@pytest.mark.parametrize("max_tokens", [40, 100, 1000])
def test_no_batch_has_more_positions_than_allowed(max_tokens: int) -> None:
    assert max(batch.input_ids.numel() for batch in length_buckets(sequences(), max_tokens)) <= max_tokens


def test_a_batch_is_filled_before_the_next_is_begun() -> None:
    assert [tuple(batch.input_ids.shape) for batch in length_buckets([[1, 2]] * 5, 4)] == [(2, 2), (2, 2), (1, 2)]


def test_a_sequence_longer_than_allowed_is_a_batch_of_its_own() -> None:
    assert [tuple(batch.input_ids.shape) for batch in length_buckets([[1] * 9, [2] * 9, [3]], 4)] == [
        (1, 1),
        (1, 9),
        (1, 9),
    ]


def test_padding_is_on_the_right() -> None:
    (batch,) = length_buckets([[7, 8, 9], [5]], 100)
    assert batch.input_ids.tolist() == [[5, 0, 0], [7, 8, 9]]
    assert batch.real.tolist() == [[True, False, False], [True, True, True]]


def test_sequences_of_similar_length_are_together() -> None:
    batches = length_buckets(sequences(), 200)
    positions = sum(batch.input_ids.numel() for batch in batches)
    assert positions < 1.1 * sum(int(batch.real.sum()) for batch in batches)


def test_batches_do_not_depend_on_the_order_of_the_sequences() -> None:
    shuffled = sequences()
    random.Random(1).shuffle(shuffled)
    for ours, theirs in zip(length_buckets(shuffled, 100), length_buckets(sequences(), 100), strict=True):
        assert torch.equal(ours.input_ids, theirs.input_ids)


def test_the_token_0_is_not_taken_for_padding() -> None:
    (batch,) = length_buckets([[0, 0], [0]], 100)
    assert batch.real.tolist() == [[True, False], [True, True]]


def test_packing_takes_the_real_tokens_and_padding_puts_them_back() -> None:
    (batch,) = length_buckets([[7, 8, 9], [5], [1, 2]], 100)
    values = torch.arange(18.0).reshape(3, 3, 2) + 1.0
    packed = batch.packed(values)
    assert packed.tolist() == values[batch.real].tolist()
    padded = batch.padded(packed)
    assert torch.equal(padded[batch.real], packed)
    assert not padded[~batch.real].any()


def test_no_sequences_make_no_batches() -> None:
    assert length_buckets([], 100) == []


@pytest.mark.parametrize(("ids", "real"), [((2, 3), (2, 2)), ((3,), (3,))])
def test_ids_and_mask_must_be_matrices_of_one_shape(ids: tuple[int, ...], real: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        Batch(torch.zeros(ids, dtype=torch.long), torch.ones(real, dtype=torch.bool))
