"""Experts that go one after another: losses against those of layers that really lack them, by any samples."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from support.corpora import random_token_ids
from support.models import micro_source
from support.plans import layer_plan
from support.product import CostModel, DecoderLayer, HiddenStates, length_buckets, shrink_layer

from seap_export.model.families import Experts
from seap_export.model.layers.sublayers.experts import routing_weights
from seap_export.pruning.activations import routing
from seap_export.pruning.activations.routing import RoutingObserver, RoutingSample
from seap_export.pruning.plan.elimination.experts import RoutingLosses, eliminate_experts, eliminate_neurons
from seap_export.pruning.plan.sublayers import ExpertOptions, KeptExperts

TOKENS, EXPERTS, WIDTH = 40, 6, 5


def mixture(*, is_normalised: bool) -> Experts:
    return Experts(num_experts=EXPERTS, moe_intermediate_size=4, experts_per_token=2, is_normalised=is_normalised)


#: What each expert writes for each token, float64 [tokens, experts, width].
WRITTEN = torch.randn(TOKENS, EXPERTS, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def sampled(bias: torch.Tensor | None = None) -> RoutingSample:
    rows, columns = torch.triu_indices(EXPERTS, EXPERTS)
    logits = 2 * torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(0))
    return RoutingSample(logits, (WRITTEN @ WRITTEN.mT)[:, rows, columns], bias)


def output(experts: Experts, sample: RoutingSample, kept: list[int]) -> torch.Tensor:
    """What a layer with some of the experts gives, [tokens, width]."""
    fewer, bias = dataclasses.replace(experts, num_experts=len(kept)), sample.selection_bias
    weights = routing_weights(sample.logits[:, kept], fewer, bias if bias is None else bias[kept]).double()
    return torch.einsum("te,tew->tw", weights, WRITTEN[:, kept])


@pytest.mark.parametrize("is_normalised", [True, False])
def test_a_loss_is_the_change_of_what_the_layer_gives_without_the_experts(is_normalised: bool) -> None:
    plain = mixture(is_normalised=is_normalised)
    biased = dataclasses.replace(plain, scores="sigmoid", scaling=2.5)
    for experts, sample in ((plain, sampled()), (biased, sampled(torch.linspace(-0.5, 0.5, EXPERTS)))):
        dense = output(experts, sample, list(range(EXPERTS)))
        for kept in ([0, 1, 2, 3, 4], [1, 3, 5], [2, 4]):
            expected = (output(experts, sample, kept) - dense).square().sum(1)
            losses = RoutingLosses(experts, sample)(kept)
            torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-6)


def test_each_time_the_expert_goes_without_which_least_is_lost() -> None:
    experts = mixture(is_normalised=True)
    weights = torch.rand(TOKENS, generator=torch.Generator().manual_seed(2)).double().softmax(0)
    sample = sampled()
    order, losses = eliminate_experts(experts, sample, weights)
    dense = output(experts, sample, list(range(EXPERTS)))

    def loss(kept: list[int]) -> float:
        return float((output(experts, sample, kept) - dense).square().sum(1) @ weights)

    kept = list(range(EXPERTS))
    while len(kept) > 2:
        gone = min(kept, key=lambda expert: loss([other for other in kept if other != expert]))
        kept.remove(gone)
        assert order[len(kept)] == gone
        assert losses[len(kept)] == pytest.approx(loss(kept), rel=1e-4)
    assert sorted(order.tolist()) == list(range(EXPERTS))
    assert losses[-1] == 0.0
    assert all(more >= less for more, less in itertools.pairwise(losses))
    assert losses[0] == losses[1] == losses[2]  # a token has two experts


def test_losses_of_neurons_are_those_of_refitted_experts() -> None:
    experts, generator = mixture(is_normalised=True), torch.Generator().manual_seed(3)
    channels = torch.randn(EXPERTS, TOKENS, 4, generator=generator, dtype=torch.float64)
    channels[5] = 0.0  # an expert that no token reaches
    weight = torch.randn(WIDTH, EXPERTS * 4, generator=generator)
    moments = channels.mT @ channels / TOKENS
    shares = [0.5] * 5 + [0.0]
    orders, losses = eliminate_neurons(experts, weight, lambda expert: moments[expert].clone(), 1e-7, shares)
    for number in range(1, 5):
        lost = 0.0
        for expert in range(EXPERTS):
            kept = channels[expert][:, orders[expert, :number].copy()]
            wanted = channels[expert] @ weight[:, experts.of_expert(expert)].double().T
            lost += float((wanted - kept @ torch.linalg.pinv(kept) @ wanted).square().sum()) / TOKENS
        assert losses[number] == pytest.approx(lost, rel=1e-3, abs=1e-5)


def test_options_are_pairs_of_experts_and_neurons() -> None:
    dense = dataclasses.replace(mixture(is_normalised=True), num_experts=3)
    orders = np.array([[1, 0, 3, 2], [0, 1, 2, 3], [3, 2, 1, 0]])
    losses, neuron_losses = np.array([9.0, 9, 9, 0]), np.array([8.0, 4, 2, 1, 0])
    options = ExpertOptions(dense, WIDTH, np.array([2, 0, 1]), losses, orders, neuron_losses).aligned(2)
    assert options.kept(0) == KeptExperts((0, 2), 2, ((0, 1), (2, 3)))
    assert options.kept(len(options.losses) - 1) == KeptExperts((0, 1, 2), 4)
    assert options.losses.tolist() == [11.0, 2.0, 9.0, 0.0]
    sizes = [options.shrunk(option).sizes for option in range(4)]
    assert options.costs(CostModel()).tolist() == [
        WIDTH * one["num_experts"] * (3 * one["moe_intermediate_size"] + 1) for one in sizes
    ]
    assert options.nearest(np.array([0.0, 1e9])).tolist() == [0, 3]


@pytest.mark.parametrize("variation", ["gpt_oss", "minimax_m2"])
@torch.no_grad()
def test_losses_by_a_sample_are_those_of_the_layer(variation: str, tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", variation)
    spec, tensors = source.spec, source.read_layer(0)
    experts, kept = spec.layers[0][Experts], layer_plan(spec.layers[0], None, None, range(1))
    batches = length_buckets([list(range(3, 40))], 64)
    hidden = HiddenStates.embedded(spec, source.read_embedding(), batches)
    shrunk_spec = spec.with_layers((kept.spec(spec.layers[0], frozenset()), *spec.layers[1:]))
    layers = DecoderLayer(spec, 0, tensors), DecoderLayer(shrunk_spec, 0, shrink_layer(tensors, spec, 0, kept))
    observed = RoutingObserver(layers[0], experts, hidden, tmp_path).tensors()
    sample = RoutingSample(**{name: tensor for name, tensor in observed.items() if name != "moments"})
    (batch,), stream = batches, hidden.streams[0]
    written = [layer.channels_and_product(Experts.output, stream, batch)[1].double() for layer in layers]
    losses = RoutingLosses(experts, sample)([*kept[KeptExperts].units])
    expected = (written[1] - written[0]).square().sum(1)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4 * float(expected.max()))


@torch.no_grad()
def test_a_sample_has_the_same_tokens_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
