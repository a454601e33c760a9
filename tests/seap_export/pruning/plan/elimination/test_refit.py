"""The loss after each removal is that of a refit from nothing."""

from __future__ import annotations

import pytest
import torch
from support.plans import random_projection, refitted_loss

from seap_export.errors import UsageError
from seap_export.pruning.plan.elimination import symmetric
from seap_export.pruning.plan.elimination.refit import Refit, SetLosses, removal_losses

CHANNELS, RIDGE = 14, 0.002
#: Sets removed one after another, all channels in the end.
REMOVALS = ([3], [0, 9, 4], [13], [1, 2], [12, 11, 10], [5, 8], [6], [7])


def refit_of(tokens: int = 40) -> tuple[Refit, torch.Tensor, torch.Tensor]:
    weight, covariance = random_projection(CHANNELS, tokens)
    return Refit(weight, covariance.clone(), RIDGE * float(covariance.trace())), weight, covariance


@pytest.mark.parametrize("strip", [1, 4, 14, 512])
@pytest.mark.parametrize("tokens", [40, 5])
def test_the_growth_of_the_loss_is_that_of_a_refit_from_nothing(
    tokens: int, strip: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 5 tokens the covariance is singular; blocks of any size give what whole matrices give."""
    monkeypatch.setattr(symmetric, "_STRIP", strip)
    refit, weight, covariance = refit_of(tokens)
    left, loss = list(range(CHANNELS)), 0.0
    for removal in REMOVALS:
        loss += refit.remove(torch.tensor(removal))
        left = [channel for channel in left if channel not in removal]
        assert loss == pytest.approx(refitted_loss(weight, covariance, left, RIDGE), rel=1e-9)
        assert refit.left.tolist() == left
    with pytest.raises(UsageError, match="ridge is too small"):
        Refit(weight, covariance - 10.0 * torch.eye(CHANNELS), 1.0)


@pytest.mark.parametrize("tokens", [40, 5])
def test_one_factorisation_gives_the_loss_of_every_number_of_channels_and_set_of_heads(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, covariance = random_projection(CHANNELS, tokens)
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
    for strip in (1, 5, 256):
        monkeypatch.setattr(symmetric, "_STRIP", strip)
        losses = removal_losses(weight, covariance.clone(), RIDGE * float(covariance.trace()), order)
        assert losses.dtype == torch.float64
        for kept in range(CHANNELS + 1):
            expected = refitted_loss(weight, covariance, order[:kept].tolist(), RIDGE)
            assert float(losses[kept]) == pytest.approx(expected, rel=1e-12)
    sets = SetLosses(weight, covariance.clone(), RIDGE * float(covariance.trace()), 2)
    for heads in ((0,), (6,), (1, 4), (2, 3, 5), (0, 1, 5, 6), (0, 2, 3, 4, 5, 6), tuple(range(7))):
        expected = refitted_loss(weight, covariance, [2 * head + i for head in heads for i in range(2)], RIDGE)
        assert sets.loss(heads) == pytest.approx(expected, rel=1e-10)
    with pytest.raises(UsageError, match="ridge is too small"):
        removal_losses(weight, covariance - 10.0 * torch.eye(CHANNELS), 1.0, order)


def test_increases_are_what_removing_one_channel_or_a_set_would_add() -> None:
    refit, weight, covariance = refit_of()
    loss = refit.remove(torch.tensor([2, 7, 8, 0]))
    left = refit.left.tolist()
    for channel, increase in zip(left, refit.increases().tolist(), strict=True):
        without = refitted_loss(weight, covariance, set(left) - {channel}, RIDGE)
        assert loss + increase == pytest.approx(without, rel=1e-9)
        assert refit.increase(torch.tensor([channel])) == pytest.approx(increase, rel=1e-9)
    single = Refit(weight, covariance.float(), RIDGE * float(covariance.trace()))
    single.remove(torch.tensor([2, 7, 8, 0]))
    assert single.increases().dtype == torch.float32
    torch.testing.assert_close(single.increases().double(), refit.increases(), rtol=1e-4, atol=0.0)
    without = refitted_loss(weight, covariance, set(left) - {5, 11, 3}, RIDGE)
    assert loss + refit.increase(torch.tensor([5, 11, 3])) == pytest.approx(without, rel=1e-9)
