"""Batches hold every token once; hidden states come back as they were set, wherever they are kept."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Literal

import pytest
import torch
from support.stand_ins.cuda import CUDA, pretend_cuda
from support.variations import micro_config

from seap_export.model.families import model_spec
from seap_export.model.layers.batches import Batch, length_buckets
from seap_export.model.layers.compute import Compute
from seap_export.model.layers.kept import keep_tensors, kept_layers, path_of
from seap_export.model.layers.streams import SavedStreams, StreamStorage, choose_storage
from seap_export.model.layers.working_memory import LOGIT_TOKENS, working_bytes

SPEC = model_spec(micro_config(model_type="llama"))


def values(seed: int, batches: list[Batch]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(batch.num_tokens, SPEC.hidden_size, generator=generator) for batch in batches)
    return [tensor.to(CUDA) for tensor in drawn]


def assert_holds(saved: SavedStreams, expected: list[torch.Tensor], device: torch.device) -> None:
    assert len(saved) == len(expected)
    assert all(stream.device == device for stream in saved)
    assert all(torch.equal(stream.cpu(), one.cpu()) for stream, one in zip(saved, expected, strict=True))


@pytest.mark.parametrize("kind", ["device", "memory", "disk"])
def test_what_was_saved_stays_while_new_values_are_set_and_the_next_save_keeps_what_was_not(
    tmp_path: Path, kind: Literal["device", "memory", "disk"]
) -> None:
    """And all are handed out on the device."""
    with pretend_cuda() as device:
        batches = length_buckets([[1, 2, 3], [4, 5], [6]], 4, device)

        def streams() -> SavedStreams:
            return StreamStorage(kind, 0, tmp_path, device).streams("stream", SPEC, batches)

        old, new, saved = values(0, batches), values(1, batches), streams()
        for index, stream in enumerate(old):
            saved[index] = stream
        saved.save(1)
        saved[1] = new[1]
        mixed = [old[0], new[1], *old[2:]]
        assert_holds(saved, mixed, device)
        again = streams()
        assert again.saved() == [1]
        again.load(1)
        assert_holds(again, old, device)
        saved.save(2)
        saved.forget(2)
        again = streams()
        assert again.saved() == [2]
        again.load(2)
        assert_holds(again, mixed, device)
        if kind == "disk":
            for file in tmp_path.iterdir():
                file.write_bytes(file.read_bytes()[:-4])
            with pytest.raises(OSError, match="truncated"):
                list(saved)


def test_the_fastest_place_that_fits_is_taken(tmp_path: Path) -> None:
    need, size = working_bytes(SPEC, 1024), 4 * 100 * SPEC.hidden_size
    for compute, kind, says in (
        (Compute(memory=need + size), "memory", "in memory"),
        (Compute(memory=need + size - 1), "disk", "on disk"),
        (Compute(CUDA, memory=need + size, device_memory=need + size), "device", "on cuda:0"),
        (Compute(CUDA, memory=need + size, device_memory=need + size - 1), "memory", "in memory"),
    ):
        storage = choose_storage(SPEC, 100, compute, tmp_path)
        assert (storage.kind, storage.size) == (kind, size)
        assert says in storage.description
    assert choose_storage(SPEC, 100, Compute(memory=need + size), tmp_path, copies=2).kind == "disk"
    large = SPEC.with_tokens(1 << 20)  # beside the head, the logits of both models, and what comes of them
    assert working_bytes(large, 1024) >= 4 * large.vocab_size * (large.hidden_size + 3 * LOGIT_TOKENS)


def test_a_file_of_tensors_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for layer in (10, 9):
        keep_tensors(path_of(tmp_path, "x", layer), {"a": torch.ones(1)})
    assert kept_layers(tmp_path, "x") == [9, 10]

    def fail(part: Path, path: Path) -> None:
        assert part.is_file()
        assert not path.exists()
        raise InterruptedError

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InterruptedError):
        keep_tensors(path_of(tmp_path, "x", 11), {"a": torch.ones(1)})
    assert kept_layers(tmp_path, "x") == [9, 10]


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
