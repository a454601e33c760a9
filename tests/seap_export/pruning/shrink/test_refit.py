"""The refit is the least-squares solution, and its target leads to the stream that the shrunk layer really gives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import OUTPUTS, DecoderLayer, HiddenStates, Projection, Source, SublayerPass, length_buckets

from seap_export.errors import UsageError
from seap_export.model.families import names
from seap_export.pruning.activations.covariance import CovarianceAccumulator
from seap_export.pruning.shrink.refit import OutputFit, mean_fit, refit, refit_from_dense
from seap_export.pruning.shrink.target import refit_target


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


def test_a_ridge_too_small_for_the_rounding_of_the_covariance_and_a_bias_without_intercept_are_refused() -> None:
    case = some_case(tokens=4)
    mean, covariance = case.statistics()
    covariance = covariance.float().double()  # as statistics come from disk: no longer quite positive
    assert float(torch.linalg.eigvalsh(covariance[case.kept][:, case.kept])[0]) < 0.0
    with pytest.raises(UsageError, match="the ridge is too small"):
        refit_from_dense(case.weight, case.bias, mean, covariance, case.kept, ridge=1e-12, tokens=4)
    with pytest.raises(ValueError, match="has a place for"):
        case.fit(0.1, intercept=False)


POST_NORMS = ("glm4", "exaone4", "gemma2-all", "gemma3-all")


@dataclasses.dataclass(frozen=True)
class OneSublayer:
    """One sublayer of a dense layer over some tokens, and a stream that other layers have disturbed."""

    layer: DecoderLayer
    output: Projection
    passed: SublayerPass
    shrunk: torch.Tensor
    kept: torch.Tensor

    @property
    def x(self) -> torch.Tensor:
        """The kept channels, float64 [tokens, kept]."""
        return self.passed.channels[0][:, self.kept].double()

    def linearised(self, weight: torch.Tensor, bias: torch.Tensor) -> float:
        """Mean square distance from the dense stream, with the norm as g z / s at the dense product's s."""
        gain, factor = self.layer.gain(self.output), self.layer.factor(self.output, self.passed.product).double()
        product = self.passed.product.double()
        written = self.passed.update.double() + factor * gain.double() * (self.x @ weight.T + bias - product)  # type: ignore[union-attr]
        distance = self.shrunk.double() + written - self.passed.stream
        return float((distance.square().sum(1) / self.passed.stream.double().norm(dim=1)).mean())

    def fit(self, target: torch.Tensor, weights: torch.Tensor | float) -> tuple[torch.Tensor, torch.Tensor]:
        sums = CovarianceAccumulator()
        sums.update(self.x.float(), target, torch.ones(len(target)) * weights)
        fitted = refit(
            torch.zeros(target.shape[1], len(self.kept), dtype=torch.float64),
            sums.mean(), sums.covariance(), sums.target_mean(), sums.cross_covariance(), ridge=1e-7, tokens=1.0,
        )  # fmt: skip
        assert fitted.bias is not None
        return fitted.weight, fitted.bias


@torch.no_grad()
def sublayer_of(source: Source, output: Projection, disturbance: float) -> OneSublayer:
    texts = random_token_ids(40)
    hidden = HiddenStates.embedded(source.spec, source.read_embedding(), length_buckets(texts, 4096))
    layer, seen = DecoderLayer(source.spec, 0, source.read_layer(0)), list[SublayerPass]()
    if output == "down_proj":
        hidden.advance(layer, "o_proj")
    before = hidden.streams[0].clone()
    hidden.advance(layer, output, seen.append)
    (passed,) = seen
    noise = torch.randn(before.shape, generator=torch.Generator().manual_seed(0))
    (inputs,), channels = passed.channels, passed.channels[0].shape[1]
    mixing = inputs @ torch.randn(channels, 96, generator=torch.Generator().manual_seed(1))
    error = disturbance * (noise + mixing / mixing.square().mean().sqrt())  # in part a function of the input
    return OneSublayer(layer, output, passed, before + error, torch.arange(channels)[torch.arange(channels) % 3 != 0])


@pytest.mark.parametrize("output", OUTPUTS)
def test_without_norm_it_reaches_the_dense_stream(tmp_path: Path, output: Projection) -> None:
    """Bit for bit the distance, where there is no multiplier."""
    sublayer = sublayer_of(micro_source(tmp_path / "model"), output, 0.1)
    target, weights = refit_target(sublayer.layer, output, sublayer.passed, sublayer.shrunk)
    assert torch.equal(target, sublayer.passed.stream - sublayer.shrunk)
    assert isinstance(weights, torch.Tensor)
    torch.testing.assert_close(weights * sublayer.passed.stream.norm(dim=1), torch.ones(len(target)))
    sublayer.passed.stream[1] = 0.0
    _, without = refit_target(sublayer.layer, output, sublayer.passed, sublayer.shrunk)
    assert isinstance(without, torch.Tensor)
    assert without[1] == 0.0
    assert torch.isfinite(without).all()
    sublayer = sublayer_of(micro_source(tmp_path / "multiplied", "granite-all"), output, 0.1)
    target, _ = refit_target(sublayer.layer, output, sublayer.passed, sublayer.shrunk)
    reached = sublayer.shrunk + sublayer.layer.update(output, target)
    torch.testing.assert_close(reached, sublayer.passed.stream, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("variation", POST_NORMS)
def test_the_fit_is_stationary_in_the_linearised_problem(tmp_path: Path, variation: str, output: Projection) -> None:
    """By central differences along random directions, against a fit that counts all tokens alike."""
    sublayer = sublayer_of(micro_source(tmp_path / "model", variation), output, 0.1)
    gain = sublayer.layer.gain(output)
    assert gain is not None
    usable = gain.abs() > 0.1 * gain.square().mean().sqrt()  # the others are held back on purpose
    target, weights = refit_target(sublayer.layer, output, sublayer.passed, sublayer.shrunk)
    assert isinstance(weights, torch.Tensor)
    best, alike = sublayer.fit(target, weights), sublayer.fit(target, 1.0)
    generator = torch.Generator().manual_seed(2)

    def slopes(weight: torch.Tensor, bias: torch.Tensor) -> list[float]:
        gradients = []
        for _ in range(5):
            direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * usable.unsqueeze(1)
            step = 1e-3 * direction / direction.norm() * weight.norm()
            ends = [sublayer.linearised(weight + sign * step, bias) for sign in (1.0, -1.0)]
            gradients.append(abs(ends[0] - ends[1]) / (ends[0] + ends[1] - 2 * sublayer.linearised(weight, bias)))
        return gradients

    assert max(slopes(*best)) < 0.01  # half of it is the distance to the minimum, in steps of a thousandth
    assert max(slopes(*alike)) > 1.0
    assert sublayer.linearised(*best) < sublayer.linearised(*alike)


@torch.no_grad()
def test_the_sum_of_two_that_is_normalised_nearly_reaches_the_dense_stream(tmp_path: Path) -> None:
    """The second makes up for errors of the stream and of what the first has written, which is fitted to itself."""
    source = micro_source(tmp_path / "model", "gemma4-experts")
    hidden = HiddenStates.embedded(source.spec, source.read_embedding(), length_buckets(random_token_ids(40), 4096))
    layer, seen, befores = DecoderLayer(source.spec, 0, source.read_layer(0)), list[SublayerPass](), []
    for output in layer.spec.outputs:
        befores.append(hidden.streams[0].clone())
        hidden.advance(layer, output, seen.append)
    noise = torch.randn(befores[-1].shape, generator=torch.Generator().manual_seed(0))
    (_, before, last), (_, first, second) = (befores, seen)
    torch.testing.assert_close(refit_target(layer, "experts_down_proj", first, before + noise)[0], first.product)
    disturbed = last + 0.003 * noise
    target, _ = refit_target(layer, "down_proj", second, disturbed)
    errors = [
        layer.total("down_proj", disturbed, layer.update("down_proj", product, layer.held("down_proj", disturbed)))
        - second.stream
        for product in (target, second.product)
    ]
    assert errors[0].square().mean() < 0.05 * errors[1].square().mean()


def test_a_channel_of_nearly_no_gain_is_not_blown_up(tmp_path: Path) -> None:
    source = micro_source(tmp_path / "model", "glm4")
    sublayer = sublayer_of(source, "o_proj", 0.1)
    tensors = source.read_layer(0)
    gain = tensors[names.tensor("post_self_attn_layernorm", 0)]
    plain, _ = refit_target(sublayer.layer, "o_proj", sublayer.passed, sublayer.shrunk)
    gain[3:5] = torch.tensor([0.0, -1e-9])
    sublayer = sublayer_of(source, "o_proj", 0.1)
    layer = DecoderLayer(source.spec, 0, tensors)
    target, weights = refit_target(layer, "o_proj", sublayer.passed, sublayer.shrunk)
    assert torch.isfinite(target).all()
    assert isinstance(weights, torch.Tensor)
    assert (weights > 0).all()
    added = (target - sublayer.passed.product).abs().mean(0)
    assert added[3:5].max() < 20 * (plain - sublayer.passed.product).abs().mean()
