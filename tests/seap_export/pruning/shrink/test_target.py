"""The refit's target, against the stream that the shrunk sublayer really gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from support.corpora import random_token_ids
from support.models import micro_source
from support.product import OUTPUTS, DecoderLayer, HiddenStates, Projection, Source, SublayerPass, length_buckets

from seap_export.model.families import names
from seap_export.pruning.activations.covariance import CovarianceAccumulator
from seap_export.pruning.shrink.refit import refit
from seap_export.pruning.shrink.target import refit_target

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
def test_without_norm_it_reaches_the_dense_stream_and_a_token_without_a_hidden_state_does_not_count(
    tmp_path: Path, output: Projection
) -> None:
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
def test_the_fit_is_a_stationary_point_of_the_linearised_problem(
    tmp_path: Path, variation: str, output: Projection
) -> None:
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
