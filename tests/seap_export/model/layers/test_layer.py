"""A layer's sublayers write back what their norms and the multiplier say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.corpora import random_token_ids
from support.models import micro_source

from seap_export.model.families import names
from seap_export.model.families.names import Projection
from seap_export.model.layers import head
from seap_export.model.layers.batches import length_buckets
from seap_export.model.layers.head import Head
from seap_export.model.layers.hidden_states import HiddenStates, SublayerPass
from seap_export.model.layers.layer import DecoderLayer
from seap_export.model.layers.widened import widened_product


@pytest.mark.parametrize(
    ("variation", "output", "has_norm", "multiplier"),
    [
        ("llama-gqa", "o_proj", False, 1.0),
        ("granite-all", "down_proj", False, 0.4),
        ("glm4", "o_proj", True, 1.0),
        ("exaone4", "down_proj", True, 1.0),
    ],
)
def test_what_is_written_is_the_factor_times_the_gain_times_the_product(
    tmp_path: Path, variation: str, output: Projection, has_norm: bool, multiplier: float
) -> None:
    source = micro_source(tmp_path / "model", variation)
    tensors = source.read_layer(1)
    layer = DecoderLayer(source.spec, 1, tensors)
    norm = {"o_proj": "post_self_attn_layernorm", "down_proj": "post_mlp_layernorm"}[output]
    gain = layer.gain(output)
    assert (gain is not None) is has_norm
    if gain is not None:
        assert torch.equal(gain, tensors[names.tensor(norm, 1)].float())
    product = torch.randn(7, 96, generator=torch.Generator().manual_seed(0))
    root = product.square().mean(-1, keepdim=True).add(source.spec.norm.epsilon).sqrt()
    factor = multiplier / root if has_norm else torch.full_like(root, multiplier)
    torch.testing.assert_close(layer.factor(output, product), factor)
    torch.testing.assert_close(layer.update(output, product), factor * (1.0 if gain is None else gain) * product)


@torch.no_grad()
def test_a_visitor_sees_each_batch_as_it_is_after_the_sublayer(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "gemma2-all", dtype="bfloat16")
    spec = source.spec
    hidden = HiddenStates.embedded(spec, source.read_embedding(), length_buckets(random_token_ids(8), 60))
    layer, before, seen = DecoderLayer(spec, 0, source.read_layer(0)), list(hidden.streams), list[SublayerPass]()
    hidden.advance(layer, "o_proj", seen.append)
    assert [passed.batch_index for passed in seen] == list(range(len(hidden.batches)))
    assert len(seen) > 1
    for passed, batch, start, stream in zip(seen, hidden.batches, before, hidden.streams, strict=True):
        (channels,) = passed.channels
        assert channels.dtype == torch.float32
        assert torch.equal(channels, layer.channels("o_proj", start, batch))
        assert torch.equal(passed.product, layer.linear("o_proj", channels))
        assert torch.equal(passed.update, layer.update("o_proj", passed.product))
        assert torch.equal(start + passed.update, stream)
        assert torch.equal(passed.stream, stream)


def test_the_gradient_of_a_product_with_half_precision_weights_is_that_of_one_in_float32() -> None:
    chance = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=chance) for shape in ((7, 5), (3, 5)))
    wanted, found = (x.clone().requires_grad_() for _ in range(2))
    (wanted @ weight.bfloat16().float().T).square().sum().backward()
    widened_product(found, weight.bfloat16(), None).square().sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad)


def test_a_head_takes_rows_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, bias, x, values = (torch.randn(size, generator=generator) for size in ((50, 8), (50,), (3, 8), (3, 50)))
    monkeypatch.setattr(head, "_VOCABULARY_BLOCK", 16)
    torch.testing.assert_close(Head(weight, bias)(x), x @ weight.T + bias)
    torch.testing.assert_close(Head(weight)(x), x @ weight.T)
    torch.testing.assert_close(Head(weight, bias).transposed(values), values @ weight)
    tokens = torch.tensor([40, 2])
    torch.testing.assert_close(Head(weight, bias).rows(tokens)(x), (x @ weight.T + bias)[:, tokens])
