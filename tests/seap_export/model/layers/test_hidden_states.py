"""The walk through the layers computes what transformers' own model does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from support.chosen import VARIED
from support.corpora import random_token_ids
from support.models import micro_source, transformers_model, write_micro_model
from support.product import Source, open_source
from support.variations import SHARED_CACHES, VARIATIONS

from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass, logits, output_stream
from seap_export.model.layers.layer import DecoderLayer

Texts = Sequence[Sequence[int]]
_OUTPUTS = dict[tuple[int, ...], tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def walked(source: Source, texts: Texts, max_batch_tokens: int = 4096) -> _OUTPUTS:
    """The stream behind the last layer and the logits of each text."""
    spec, embedding = source.spec, source.read_embedding()
    hidden = HiddenStates.embedded(spec, embedding, length_buckets(texts, max_batch_tokens))
    for index in range(len(spec.layers)):
        layer = DecoderLayer(spec, index, source.read_layer(index))
        for output in spec.layers[index].outputs:
            hidden.advance(layer, output)
    head = source.read_head()
    results = {}
    for batch, stream in zip(hidden.batches, hidden.streams, strict=True):
        all_logits = logits(spec, head, output_stream(spec, source.read_norm(), stream))
        lengths = batch.real.sum(1).tolist()
        for ids, length, *parts in zip(
            batch.input_ids, lengths, stream.split(lengths), all_logits.split(lengths), strict=True
        ):
            results[tuple(ids[:length].tolist())] = (parts[0], parts[1])
    return results


@torch.no_grad()
def assert_equals_transformers(folder: Path, source: Source, texts: Texts) -> None:
    model = transformers_model(folder)
    streams: list[torch.Tensor] = []
    norm = model.get_submodule(source.spec.family.module("norm"))
    hook = norm.register_forward_pre_hook(lambda _, args: streams.append(args[0][0]))
    results = walked(source, texts)
    for ids in texts:
        expected = model(torch.tensor([ids]), use_cache=False).logits[0]
        stream, actual = results[tuple(ids)]
        scale = streams[-1].square().mean(-1, keepdim=True).sqrt()
        stream = stream[:, : source.spec.hidden_size]
        assert ((stream - streams[-1]).abs() <= 1e-4 * scale).all()
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    hook.remove()


@pytest.mark.parametrize("variation", [*VARIATIONS, "shared caches"])
def test_every_variation_is_what_transformers_computes(tmp_path: Path, variation: str) -> None:
    """In texts of 1 to 40 tokens, one batch of them."""
    values = VARIATIONS.get(variation, SHARED_CACHES)
    source = open_source(str(write_micro_model(tmp_path / "model", **values)))
    assert_equals_transformers(tmp_path / "model", source, random_token_ids(10, longest=40))


@pytest.mark.parametrize("variation", VARIED)
def test_batches_padding_and_order_change_nothing(tmp_path: Path, variation: str) -> None:
    source = micro_source(tmp_path / "model", variation)
    texts = random_token_ids(12, longest=40)
    shuffled = random_token_ids(12, longest=40)
    random.Random(3).shuffle(shuffled)
    alone = walked(source, texts, 1)
    for size, order in ((60, texts), (4096, shuffled)):
        other = walked(source, order, size)
        for ids in texts:
            for ours, theirs in zip(other[tuple(ids)], alone[tuple(ids)], strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("length", [5, 6, 7])
def test_a_window_ends_where_that_of_transformers_does(tmp_path: Path, length: int) -> None:
    """A text of 5 tokens is within the window, and one of 6 is not."""
    source = micro_source(tmp_path / "model", "mistral-window")
    assert_equals_transformers(tmp_path / "model", source, [list(range(20, 20 + length))])


@pytest.mark.parametrize("length", [15, 16, 17, 40])
def test_longrope_switches_its_tables_where_transformers_does(tmp_path: Path, length: int) -> None:
    """A text of up to 16 tokens has the short table; in a longer one all positions have the long table."""
    source = micro_source(tmp_path / "model", "phi3-all", sliding_window=None)
    text = list(range(20, 20 + length))
    assert_equals_transformers(tmp_path / "model", source, [text])
    together = walked(source, [text, list(range(60)), [7, 8]])[tuple(text)]  # the tables are each text's own
    torch.testing.assert_close(together[1], walked(source, [text])[tuple(text)][1], rtol=1e-4, atol=1e-4)
    longer = walked(source, [[*text, 5]])[(*text, 5)]
    assert torch.allclose(longer[1][:-1], together[1], rtol=1e-3, atol=1e-3) is (length != 16)


@torch.no_grad()
def test_a_visitor_sees_each_batch_as_it_is_after_the_sublayer(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "gemma2-all")
    spec = source.spec
    hidden = HiddenStates.embedded(spec, source.read_embedding(), length_buckets(random_token_ids(8), 60))
    layer, before, seen = DecoderLayer(spec, 0, source.read_layer(0)), list(hidden.streams), list[SublayerPass]()
    hidden.advance(layer, "o_proj", seen.append)
    assert [passed.batch_index for passed in seen] == list(range(len(hidden.batches)))
    assert len(seen) > 1
    for passed, batch, start, stream in zip(seen, hidden.batches, before, hidden.streams, strict=True):
        (channels,) = passed.channels
        assert torch.equal(channels, layer.channels("o_proj", start, batch))
        assert torch.equal(passed.product, layer.linear("o_proj", channels))
        assert torch.equal(passed.update, layer.update("o_proj", passed.product))
        assert torch.equal(start + passed.update, stream)
        assert torch.equal(passed.stream, stream)
