"""Streaming covariances and moments are those of a two-pass computation, however the tokens come."""

from __future__ import annotations

import pytest
import torch

from seap_export.pruning.activations import covariance as module
from seap_export.pruning.activations.covariance import CovarianceAccumulator, add_packed, mirrored, pack_symmetric
from seap_export.pruning.activations.moments import MomentAccumulator

TOKENS = 500
BATCHINGS = ([TOKENS], [1] * TOKENS, [7, 100, 1, 192, 200])


def some_values(channels: int = 7, seed: int = 0) -> torch.Tensor:
    """Channels that depend on each other; the second has a mean of 1000 and a spread of about 1."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(channels, channels, generator=generator) / channels**0.5
    values = torch.randn(TOKENS, channels, generator=generator) @ mixing + torch.randn(channels, generator=generator)
    values[:, 1] += 1000.0
    return values


def some_targets(values: torch.Tensor, outputs: int = 4) -> torch.Tensor:
    """They depend on the values, and have means of their own."""
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(outputs, values.shape[1], generator=generator)
    noise = torch.randn(len(values), outputs, generator=generator)
    return (values - values.mean(0)) @ weight.T + noise + torch.linspace(-100.0, 100.0, outputs)


def some_weights() -> torch.Tensor:
    return 0.01 + 3.0 * torch.rand(TOKENS, generator=torch.Generator().manual_seed(4))


def two_pass(a: torch.Tensor, b: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Covariance of the columns of a with those of b."""
    p = torch.ones(len(a), dtype=torch.float64) if weights is None else weights.double()
    p = (p / p.sum()).unsqueeze(1)
    a, b = a.double(), b.double()
    return ((a - (p * a).sum(0)) * p).T @ (b - (p * b).sum(0))


def streamed(
    values: torch.Tensor, batches: list[int], targets: torch.Tensor | None = None, weights: torch.Tensor | None = None
) -> CovarianceAccumulator:
    """What is given stays as it is."""
    sums = CovarianceAccumulator()
    given = [values, targets, weights]
    before = [None if one is None else one.clone() for one in given]
    for part in torch.arange(len(values)).split(batches):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        sums.update(*(None if one is None else one[rows] for one in given))  # type: ignore[arg-type]
    assert all(one is None or torch.equal(one, other) for one, other in zip(given, before, strict=True))  # type: ignore[arg-type]
    return sums


def assert_covariance(actual: torch.Tensor, expected: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Within a small part of the product of the standard deviations."""
    assert actual.dtype == torch.float64
    scale = torch.outer(a.double().std(0), b.double().std(0)) + 1e-6
    assert float(((actual - expected).abs() / scale).max()) < 2e-6


@pytest.mark.parametrize(("batches", "block"), [*((each, None) for each in BATCHINGS), ([TOKENS], 1), ([TOKENS], 64)])
@pytest.mark.parametrize("weighted", [False, True])
def test_covariances_and_means_are_those_of_two_passes(
    batches: list[int], block: int | None, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block or module._BLOCK)
    values = some_values()
    targets, weights = some_targets(values), some_weights() if weighted else None
    values[:, 2] = 3.7
    sums = streamed(values, batches, targets, weights)
    covariance = sums.covariance()
    assert not covariance[2].any()  # of what never varies
    assert_covariance(covariance, two_pass(values, values, weights), values, values)
    assert_covariance(sums.cross_covariance(), two_pass(targets, values, weights), targets, values)
    p = torch.ones(TOKENS, dtype=torch.float64) if weights is None else weights.double()
    assert sums.weight == pytest.approx(float(p.sum()))
    for mean, all_of_it in ((sums.mean(), values), (sums.target_mean(), targets)):
        expected = (all_of_it.double() * (p / p.sum()).unsqueeze(1)).sum(0)
        torch.testing.assert_close(mean, expected, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("channels", [383, 384, 385, 900])
def test_wide_inputs_are_computed_strip_by_strip_and_packed_row_by_row(channels: int) -> None:
    values = some_values(channels)
    covariance = streamed(values, [TOKENS]).covariance()
    assert_covariance(covariance, two_pass(values, values), values, values)
    assert torch.equal(covariance, covariance.T)
    packed, unpacked = pack_symmetric(covariance), torch.zeros(channels, channels, dtype=torch.float64)
    assert torch.equal(packed, covariance[torch.ones(channels, channels).triu().bool()].float())
    add_packed(unpacked, packed, 1.0)
    assert torch.equal(mirrored(unpacked), covariance.float().double())


def activations() -> torch.Tensor:
    """Channels of many kinds: plain, mean 1e4 and 1e6 times the spread, constant, zero, tiny, huge, an outlier."""
    values = torch.randn(TOKENS, 8, generator=torch.Generator().manual_seed(0))
    factors = torch.tensor([1.0, 0.25, 0.0, 0.0, 1e-6, 1e4, 1.0, 0.25])
    values = values * factors + torch.tensor([0.0, 2500.0, 3.7, 0.0, 0.0, -3e4, 0.0, 250000.0])
    values[0, 6] = 1e4
    return values


@pytest.mark.parametrize("batches", [*BATCHINGS, [0, TOKENS - 1, 1, 0]], ids=len)
def test_moments_are_those_of_two_passes_for_any_batches_and_order(batches: list[int]) -> None:
    for values in (activations(), activations()[torch.randperm(TOKENS, generator=torch.Generator().manual_seed(1))]):
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
