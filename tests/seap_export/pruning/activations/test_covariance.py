"""Streaming covariances are those of a two-pass computation, however the tokens come."""

from __future__ import annotations

import pytest
import torch

from seap_export.pruning.activations import covariance as module
from seap_export.pruning.activations.covariance import CovarianceAccumulator, add_packed, mirrored, pack_symmetric

TOKENS = 500
BATCHINGS = {"at once": [TOKENS], "one by one": [1] * TOKENS, "uneven": [7, 100, 1, 192, 200]}


def unpacked_of(packed: torch.Tensor, n: int) -> torch.Tensor:
    matrix = torch.zeros(n, n, dtype=torch.float64)
    add_packed(matrix, packed, 1.0)
    return mirrored(matrix)


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
    sums = CovarianceAccumulator()
    start = 0
    for size in batches:
        part = slice(start, start + size)
        start += size
        sums.update(
            values[part].clone(),
            None if targets is None else targets[part].clone(),
            None if weights is None else weights[part].clone(),
        )
    return sums


def assert_covariance(actual: torch.Tensor, expected: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Within a small part of the product of the standard deviations."""
    assert actual.dtype == torch.float64
    assert actual.shape == expected.shape
    scale = torch.outer(a.double().std(0), b.double().std(0))
    assert float(((actual - expected).abs() / scale).max()) < 2e-6


@pytest.mark.parametrize("batches", BATCHINGS.values(), ids=BATCHINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_covariances_and_means_are_those_of_two_passes(batches: list[int], weighted: bool) -> None:
    values = some_values()
    targets, weights = some_targets(values), some_weights() if weighted else None
    sums = streamed(values, batches, targets, weights)
    assert_covariance(sums.covariance(), two_pass(values, values, weights), values, values)
    assert_covariance(sums.cross_covariance(), two_pass(targets, values, weights), targets, values)
    p = torch.ones(TOKENS, dtype=torch.float64) if weights is None else weights.double()
    assert sums.weight == pytest.approx(float(p.sum()))
    for mean, all_of_it in ((sums.mean(), values), (sums.target_mean(), targets)):
        expected = (all_of_it.double() * (p / p.sum()).unsqueeze(1)).sum(0)
        torch.testing.assert_close(mean, expected, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("channels", [383, 384, 385, 900])
def test_wide_inputs_are_computed_strip_by_strip(channels: int) -> None:
    values = some_values(channels)
    covariance = streamed(values, [TOKENS]).covariance()
    assert_covariance(covariance, two_pass(values, values), values, values)
    assert torch.equal(covariance, covariance.T)


@pytest.mark.parametrize("block", [1, 64, 499])
def test_the_size_of_the_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    values, weights = some_values(), some_weights()
    targets = some_targets(values)
    monkeypatch.setattr(module, "_BLOCK", block)
    sums = streamed(values, [TOKENS], targets, weights)
    assert_covariance(sums.covariance(), two_pass(values, values, weights), values, values)
    assert_covariance(sums.cross_covariance(), two_pass(targets, values, weights), targets, values)


def test_what_never_varies_has_no_covariance() -> None:
    values = some_values()
    values[:, 2] = 3.7
    covariance = streamed(values, [1, 99, 400]).covariance()
    assert torch.equal(covariance[2], torch.zeros(7, dtype=torch.float64))


def test_the_values_given_are_not_changed() -> None:
    values = some_values()
    targets, weights = some_targets(values), some_weights()
    sums = CovarianceAccumulator()
    sums.update(values, targets, weights)
    assert torch.equal(values, some_values())
    assert torch.equal(targets, some_targets(values))
    assert torch.equal(weights, some_weights())


def test_packed_is_the_upper_triangle_row_by_row() -> None:
    matrix = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 5.0], [3.0, 5.0, 6.0]])
    assert pack_symmetric(matrix).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    unpacked = unpacked_of(pack_symmetric(matrix), 3)
    assert unpacked.dtype == torch.float64
    assert torch.equal(unpacked, matrix.double())
