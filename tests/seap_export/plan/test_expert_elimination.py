"""Experts that go one after another: losses against those of layers that really lack them."""

from __future__ import annotations

import itertools

import pytest
import torch

from seap_export.families import Experts
from seap_export.layers.experts import routing_weights
from seap_export.plan.expert_elimination import eliminate_experts, routing_losses

TOKENS, EXPERTS, WIDTH = 40, 6, 5


def mixture(*, is_normalised: bool) -> Experts:
    return Experts(num_experts=EXPERTS, moe_intermediate_size=4, experts_per_token=2, is_normalised=is_normalised)


@pytest.fixture
def logits() -> torch.Tensor:
    return 2 * torch.randn(TOKENS, EXPERTS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def written() -> torch.Tensor:
    """What each expert writes for each token, float64 [tokens, experts, width]."""
    return torch.randn(TOKENS, EXPERTS, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def output(experts: Experts, logits: torch.Tensor, written: torch.Tensor, kept: list[int]) -> torch.Tensor:
    """What a layer with some of the experts gives, [tokens, width]."""
    fewer = Experts(
        num_experts=len(kept), moe_intermediate_size=4, experts_per_token=2, is_normalised=experts.is_normalised
    )
    weights = routing_weights(logits[:, kept], fewer).double()
    return torch.einsum("te,tew->tw", weights, written[:, kept])


@pytest.mark.parametrize("is_normalised", [True, False])
def test_a_loss_is_the_change_of_what_the_layer_gives_without_the_experts(
    logits: torch.Tensor, written: torch.Tensor, is_normalised: bool
) -> None:
    experts = mixture(is_normalised=is_normalised)
    dense = output(experts, logits, written, list(range(EXPERTS)))
    for kept in ([0, 1, 2, 3, 4], [1, 3, 5], [2, 4]):
        expected = (output(experts, logits, written, kept) - dense).square().sum(1)
        torch.testing.assert_close(
            routing_losses(experts, logits, written @ written.mT, kept), expected, rtol=1e-5, atol=1e-6
        )


def test_each_time_the_expert_goes_without_which_least_is_lost(logits: torch.Tensor, written: torch.Tensor) -> None:
    experts = mixture(is_normalised=True)
    weights = torch.rand(TOKENS, generator=torch.Generator().manual_seed(2)).double().softmax(0)
    order, losses = eliminate_experts(experts, logits, written @ written.mT, weights)
    dense = output(experts, logits, written, list(range(EXPERTS)))

    def loss(kept: list[int]) -> float:
        return float((output(experts, logits, written, kept) - dense).square().sum(1) @ weights)

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


def test_an_expert_that_no_token_reaches_goes_first_and_costs_nothing(
    logits: torch.Tensor, written: torch.Tensor
) -> None:
    logits[:, 3] = -50.0
    order, losses = eliminate_experts(
        mixture(is_normalised=True), logits, written @ written.mT, torch.full((TOKENS,), 1 / TOKENS).double()
    )
    assert order[-1] == 3
    assert losses[EXPERTS - 1] == pytest.approx(0.0, abs=1e-20)
