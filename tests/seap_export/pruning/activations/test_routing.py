"""What is kept of a mixture of experts tells what its layer computes without some of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import DecoderLayer, HiddenStates, LayerPlan, length_buckets, shrink_layer

from seap_export.model.families import Attention, Experts
from seap_export.pruning.activations import routing
from seap_export.pruning.activations.routing import RoutingObserver, RoutingSample
from seap_export.pruning.plan.elimination.experts import RoutingLosses
from seap_export.pruning.plan.sublayers import KeptExperts, KeptHeads


@pytest.mark.parametrize("variation", ["gpt_oss", "minimax_m2"])
@torch.no_grad()
def test_losses_by_a_sample_are_those_of_the_layer(variation: str, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", variation)
    spec, tensors = source.spec, source.read_layer(0)
    attention, experts = spec.layers[0][Attention], spec.layers[0][Experts]
    batches = length_buckets([list(range(3, 40))], 64)
    hidden = HiddenStates.embedded(spec, source.read_embedding(), batches)
    kept = LayerPlan(
        (
            KeptHeads.of(attention, tuple(range(attention.num_attention_heads))),
            KeptExperts((0, 2, 3), experts.moe_intermediate_size),
        )
    )
    shrunk_spec = spec.with_layers((kept.spec(spec.layers[0], frozenset()), *spec.layers[1:]))
    layers = DecoderLayer(spec, 0, tensors), DecoderLayer(shrunk_spec, 0, shrink_layer(tensors, spec, 0, kept))
    observed = RoutingObserver(layers[0], experts, hidden, tmp_path).tensors()
    sample = RoutingSample(**{name: tensor for name, tensor in observed.items() if name != "moments"})
    (batch,), stream = batches, hidden.streams[0]
    written = [layer.channels_and_product(Experts.output, stream, batch)[1].double() for layer in layers]
    losses = RoutingLosses(experts, sample)([0, 2, 3])
    expected = (written[1] - written[0]).square().sum(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@torch.no_grad()
def test_a_sample_is_of_the_same_tokens_in_any_batches_and_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_FEWEST", 40)
    source, texts = micro_source(tmp_path / "model", "mixtral"), random_token_ids(20)
    layer, experts = DecoderLayer(source.spec, 0, source.read_layer(0)), source.spec.layers[0][Experts]
    samples, tokens = [], sum(map(len, texts))
    for most, ordered in ((64, texts), (4096, texts[::-1])):
        batches = [*length_buckets(ordered[:7], 64), *length_buckets(ordered[7:], most)]
        hidden = HiddenStates.embedded(source.spec, source.read_embedding(), batches)
        observed = RoutingObserver(layer, experts, hidden, tmp_path).tensors()
        sample = torch.cat([observed["logits"], observed["products"]], 1)
        samples.append(sample[sample[:, 0].argsort()])
    torch.testing.assert_close(*samples, rtol=1e-4, atol=1e-6)
    assert tokens > 80
    assert 20 < len(samples[0]) < 60
