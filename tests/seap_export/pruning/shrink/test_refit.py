"""The refit is the least-squares solution, and lies between the bias and the exact reconstruction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from seap_export.errors import UsageError
from seap_export.pruning.shrink.refit import OutputFit, mean_fit, refit, refit_from_dense


@dataclass
class Case:
    """Inputs of a projection, all channels, and its weight and bias."""

    inputs: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    kept: torch.Tensor

    @property
    def outputs(self) -> torch.Tensor:
        product = self.inputs @ self.weight.double().T
        return product if self.bias is None else product + self.bias.double()

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        mean = self.inputs.mean(0)
        return mean, (self.inputs - mean).T @ (self.inputs - mean) / len(self.inputs)

    def fit(self, ridge: float, intercept: bool = True) -> OutputFit:
        mean, covariance = self.statistics()
        tokens = len(self.inputs)
        return refit_from_dense(
            self.weight, self.bias, mean, covariance, self.kept, ridge=ridge, tokens=tokens, intercept=intercept
        )

    def error(self, fit: OutputFit) -> float:
        """Mean square over the tokens."""
        difference = self.outputs - self.inputs[:, self.kept] @ fit.weight.T - (0.0 if fit.bias is None else fit.bias)
        return float(difference.square().sum(1).mean())


def some_case(tokens: int = 60, bias: bool = True) -> Case:
    channels, out, generator = 12, 5, torch.Generator().manual_seed(0)
    mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    mean = 3.0 * torch.randn(channels, generator=generator, dtype=torch.float64)
    return Case(
        inputs=torch.randn(tokens, channels, generator=generator, dtype=torch.float64) @ mixing + mean,
        weight=torch.randn(out, channels, generator=generator),
        bias=torch.randn(out, generator=generator) if bias else None,
        kept=torch.randperm(channels, generator=generator)[:7].sort().values,
    )


def lstsq_fit(case: Case, ridge: float, intercept: bool) -> OutputFit:
    """The same by numpy: a row a token, and rows that hold the weights back, those of the ridge.

    The ridge is relative to the mean square of all kept channels, around their means where there is an intercept.
    """
    x, y = case.inputs[:, case.kept].numpy(), case.outputs.numpy()
    tokens, kept = x.shape
    held = np.sqrt(ridge * ((x - intercept * x.mean(0)) ** 2).mean(0).sum()) * np.eye(kept)
    rows = np.vstack([x, held])
    if intercept:
        rows = np.hstack([rows, np.vstack([np.ones((tokens, 1)), np.zeros((kept, 1))])])
    wanted = np.vstack([y, held @ case.weight[:, case.kept].double().numpy().T])
    solution = torch.from_numpy(np.linalg.lstsq(rows, wanted, rcond=None)[0].T.copy())
    return OutputFit(solution[:, :kept], solution[:, kept] if intercept else None)


def assert_same(one: OutputFit, other: OutputFit, tolerance: float = 1e-7) -> None:
    assert one.weight.dtype == torch.float64
    torch.testing.assert_close(one.weight, other.weight, rtol=tolerance, atol=tolerance)
    if one.bias is None or other.bias is None:
        assert one.bias is other.bias
    else:
        torch.testing.assert_close(one.bias, other.bias, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 5.0, 1e3])
@pytest.mark.parametrize(("bias", "intercept"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("tokens", [5, 60])
def test_it_is_the_least_squares_solution(ridge: float, bias: bool, intercept: bool, tokens: int) -> None:
    """Of 5 tokens too, fewer than channels."""
    case = some_case(tokens, bias=bias)
    assert_same(case.fit(ridge, intercept), lstsq_fit(case, ridge, intercept), 1e-7 if not intercept else 1e-8)


def test_the_compensation_bias_is_the_mean_contribution_of_what_is_removed() -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    mean = torch.tensor([10.0, 100.0, 1000.0], dtype=torch.float64)
    for bias in (None, torch.tensor([0.5, -1.0])):
        fit = mean_fit(weight, bias, mean, torch.tensor([1]))
        expected = torch.tensor([3010.0, 6040.0], dtype=torch.float64)
        assert torch.equal(fit.bias, expected if bias is None else expected + bias.double())
        assert torch.equal(fit.weight, weight[:, [1]].double())
    # 1 + 4096 times 2^-12 is 2, which bfloat16 cannot reach by adding one after the other
    weight = torch.full((1, 4098), 2.0**-12, dtype=torch.bfloat16)
    weight[0, :2] = 1.0
    assert mean_fit(weight, None, torch.ones(4098, dtype=torch.float64), torch.tensor([0])).bias.item() == 2.0


def test_inputs_that_never_vary_get_a_bias_only() -> None:
    case = some_case()
    case.inputs[:] = case.inputs[0].clone()
    mean, covariance = case.inputs[0], torch.zeros(12, 12, dtype=torch.float64)
    fit = refit_from_dense(case.weight, case.bias, mean, covariance, case.kept, ridge=1.0, tokens=60)
    assert_same(fit, mean_fit(case.weight, case.bias, mean, case.kept))
    assert case.error(fit) < 1e-18


@pytest.mark.parametrize("bias", [True, False])
def test_the_fit_to_the_dense_output_is_the_fit_to_any_output(bias: bool) -> None:
    """With y = W x + b computed for every token."""
    case = some_case(bias=bias)
    mean, covariance = case.statistics()
    kept, y = case.kept, case.outputs
    centred = case.inputs[:, kept] - mean[kept]
    fit = refit(
        case.weight[:, kept].double(),
        mean[kept],
        covariance[kept][:, kept],
        y.mean(0),
        (y - y.mean(0)).T @ centred / len(y),
        ridge=0.3,
        tokens=len(y),
    )
    assert_same(fit, case.fit(0.3))


def test_a_ridge_too_small_for_the_rounding_of_the_covariance_and_a_bias_without_intercept_are_refused() -> None:
    case = some_case(tokens=4)
    mean, covariance = case.statistics()
    covariance = covariance.float().double()  # as statistics come from disk: no longer quite positive
    assert float(torch.linalg.eigvalsh(covariance[case.kept][:, case.kept])[0]) < 0.0
    with pytest.raises(UsageError, match="the ridge is too small"):
        refit_from_dense(case.weight, case.bias, mean, covariance, case.kept, ridge=1e-12, tokens=4)
    with pytest.raises(ValueError, match="has a place for"):
        case.fit(0.1, intercept=False)
