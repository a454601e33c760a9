"""Streaming moments are those of a two-pass computation, however the tokens come."""

from __future__ import annotations

import pytest
import torch

from seap_export.pruning.activations.moments import MomentAccumulator

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


@pytest.mark.parametrize(
    "batches", [[TOKENS], [1] * TOKENS, [0, TOKENS - 1, 1, 0], [7, 300, 1, 192, 500]], ids=lambda sizes: len(sizes)
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_moments_are_those_of_two_passes_for_any_batches_and_order(batches: list[int], order: int) -> None:
    values = activations()
    if order:
        values = values[torch.randperm(TOKENS, generator=torch.Generator().manual_seed(order))]
    accumulator, given = MomentAccumulator(), values.clone()
    with pytest.raises(ValueError, match="at least one token"):
        accumulator.result()
    for batch in given.split(batches):
        accumulator.update(batch)
    assert torch.equal(given, values)
    moments, exact = accumulator.result(), values.double()
    assert moments.count == TOKENS
    torch.testing.assert_close(moments.mean, exact.mean(0), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(moments.variance, exact.var(0, correction=0), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(moments.mean_square, exact.square().mean(0), rtol=1e-6, atol=1e-12)
