"""Streaming moments are those of a two-pass computation, however the tokens come."""

from __future__ import annotations

import pytest
import torch

from seap_export.pruning.activations.moments import MomentAccumulator, Moments

TOKENS = 1000


def activations() -> torch.Tensor:
    """Channels of many kinds: plain, mean 1e4 and 1e6 times the spread, constant, zero, tiny, huge, an outlier."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(TOKENS, 8, generator=generator)
    values[:, 1] = values[:, 1] * 0.25 + 2500.0
    values[:, 2] = 3.7
    values[:, 3] = 0.0
    values[:, 4] *= 1e-6
    values[:, 5] = values[:, 5] * 1e4 - 3e4
    values[0, 6] = 1e4
    values[:, 7] = values[:, 7] * 0.25 + 250000.0
    return values


def two_pass(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    exact = values.double()
    mean = exact.sum(0) / len(exact)
    return mean, ((exact - mean) ** 2).sum(0) / len(exact)


def streamed(values: torch.Tensor, batches: list[int]) -> Moments:
    accumulator = MomentAccumulator()
    for batch in values.split(batches):
        accumulator.update(batch.clone())
    return accumulator.result()


BATCHINGS = {
    "at once": [TOKENS],
    "one by one": [1] * TOKENS,
    "one, then all": [1, TOKENS - 1],
    "uneven": [7, 300, 1, 192, 500],
}


@pytest.mark.parametrize("batches", BATCHINGS.values(), ids=BATCHINGS)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_moments_are_those_of_two_passes_for_any_batches_and_order(batches: list[int], order: int) -> None:
    values = activations()
    if order:
        values = values[torch.randperm(TOKENS, generator=torch.Generator().manual_seed(order))]
    mean, variance = two_pass(values)
    moments = streamed(values, batches)
    assert moments.count == TOKENS
    torch.testing.assert_close(moments.mean, mean, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(moments.variance, variance, rtol=1e-6, atol=1e-12)


def test_the_variance_is_the_population_s() -> None:
    moments = streamed(torch.tensor([[1.0], [3.0]]), [1, 1])
    assert (moments.mean.item(), moments.variance.item(), moments.mean_square.item()) == (2.0, 1.0, 5.0)


def test_the_activations_given_are_not_changed() -> None:
    values = activations()
    accumulator = MomentAccumulator()
    accumulator.update(values)
    accumulator.update(values)
    assert torch.equal(values, activations())


@pytest.mark.parametrize("empty_first", [True, False])
def test_no_tokens_change_nothing(empty_first: bool) -> None:
    values = activations()
    batches = [0, TOKENS] if empty_first else [TOKENS, 0]
    assert torch.equal(streamed(values, batches).variance, streamed(values, [TOKENS]).variance)


def test_moments_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        MomentAccumulator().result()
