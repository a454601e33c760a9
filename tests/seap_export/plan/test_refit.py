"""The loss after each removal is that of a refit from nothing."""

from __future__ import annotations

import pytest
import torch
from refits import random_projection, refitted_loss

from seap_export.errors import UsageError
from seap_export.plan.refit import Refit

CHANNELS, RIDGE = 14, 0.002
#: Sets removed one after another, all channels in the end; the rows held shrink several times on the way.
REMOVALS = ([3], [0, 9, 4], [13], [1, 2], [12, 11, 10], [5, 8], [6], [7])


def refit_of(tokens: int = 40) -> tuple[Refit, torch.Tensor, torch.Tensor]:
    weight, covariance = random_projection(CHANNELS, tokens)
    return Refit(weight, covariance, RIDGE * float(covariance.trace())), weight, covariance


@pytest.mark.parametrize("tokens", [40, 5])
def test_every_partial_sum_is_the_loss_of_a_refit_from_nothing(tokens: int) -> None:
    """With 5 tokens the covariance is singular."""
    refit, weight, covariance = refit_of(tokens)
    left, loss = list(range(CHANNELS)), 0.0
    for removal in REMOVALS:
        grown = refit.remove(torch.tensor(removal))
        for channel, own in zip(removal, grown.tolist(), strict=True):
            left.remove(channel)
            assert loss + own == pytest.approx(refitted_loss(weight, covariance, left, RIDGE), rel=1e-9)
        loss += float(grown[-1])
        assert refit.left.tolist() == left


def test_increases_tell_what_removing_one_channel_or_a_set_would_add() -> None:
    refit, weight, covariance = refit_of()
    loss = float(refit.remove(torch.tensor([2, 7, 8, 0]))[-1])
    left = refit.left.tolist()
    for channel, own in zip(left, refit.increases().tolist(), strict=True):
        without = refitted_loss(weight, covariance, set(left) - {channel}, RIDGE)
        assert loss + own == pytest.approx(without, rel=1e-9)
        assert refit.increase(torch.tensor([channel])) == pytest.approx(own, rel=1e-9)
    without = refitted_loss(weight, covariance, set(left) - {5, 11, 3}, RIDGE)
    assert loss + refit.increase(torch.tensor([5, 11, 3])) == pytest.approx(without, rel=1e-9)


def test_a_copy_goes_its_own_way() -> None:
    refit, _, _ = refit_of()
    refit.remove(torch.tensor([4]))
    before = refit.increases()
    other = refit.copy()
    other.remove(torch.tensor([0, 1, 2, 3, 5]))
    assert torch.equal(refit.increases(), before)
    assert refit.left.tolist() == [0, 1, 2, 3, *range(5, CHANNELS)]


def test_the_statistics_given_are_not_changed() -> None:
    weight, covariance = random_projection(CHANNELS)
    given = weight.double(), covariance.clone()
    Refit(given[0], covariance, 0.1).remove(torch.tensor([1, 2]))
    assert torch.equal(given[0], weight.double())
    assert torch.equal(covariance, given[1])


def test_a_ridge_that_does_not_make_the_covariance_regular_is_refused() -> None:
    weight, covariance = random_projection(CHANNELS)
    with pytest.raises(UsageError, match=r"ridge is too small .* give a larger one"):
        Refit(weight, covariance - 10.0 * torch.eye(CHANNELS), 1.0)
