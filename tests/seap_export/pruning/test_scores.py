"""Both scores are those of a plain loop over the formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.plans import small_spec

from seap_export.model.families import Experts
from seap_export.pruning.activations.moments import Moments
from seap_export.pruning.activations.routing import RoutingSample
from seap_export.pruning.scores import CHANNEL_SCORES, channel_scores, expert_scores, layer_scores, unit_scores

OUT, HEADS, HEAD_DIM, NEURONS = 5, 3, 4, 7
LAYER = small_spec(HEADS, HEADS, NEURONS, head_dim=HEAD_DIM).layers[0]


def some_moments(channels: int, seed: int) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(channels, generator=generator, dtype=torch.float64)
    return Moments(9, mean, torch.rand(channels, generator=generator, dtype=torch.float64))


def some_weight(channels: int, seed: int) -> torch.Tensor:
    return torch.randn(OUT, channels, generator=torch.Generator().manual_seed(seed))


def by_hand(score: str, weight: torch.Tensor, moments: Moments) -> list[float]:
    """Var_j * sum_i W_ij^2, or mean_i |W_ij| * sqrt(E[x_j^2])."""
    result = []
    for j in range(weight.shape[1]):
        column = [float(weight[i, j]) for i in range(OUT)]
        mean, variance = float(moments.mean[j]), float(moments.variance[j])
        if score == "wifv":
            result.append(variance * sum(w * w for w in column))
        else:
            result.append(sum(abs(w) for w in column) / OUT * math.sqrt(variance + mean * mean))
    return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("score", CHANNEL_SCORES)
def test_scores_are_those_by_hand_and_heads_have_their_mean(score: Any, square: bool, dtype: torch.dtype) -> None:
    """Or over their squares; in float64, whatever the weights are stored in."""
    sizes = {"o_proj": HEADS * HEAD_DIM, "down_proj": NEURONS}
    weights: Any = {name: some_weight(size, size).to(dtype) for name, size in sizes.items()}
    moments: Any = {name: some_moments(size, size + 1) for name, size in sizes.items()}
    scores = layer_scores(score, weights, moments, LAYER, square_heads=square)
    by_channel = {name: by_hand(score, weights[name], moments[name]) for name in sizes}
    channels = [channel ** (1 + square) for channel in by_channel["o_proj"]]
    heads = [sum(channels[head * HEAD_DIM : (head + 1) * HEAD_DIM]) / HEAD_DIM for head in range(HEADS)]
    for found, expected in (
        (unit_scores(scores["o_proj"]), heads),
        (scores["down_proj"], by_channel["down_proj"]),
        (channel_scores(score, weights["o_proj"], moments["o_proj"]), by_channel["o_proj"]),
    ):
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("is_normalised", [True, False])
def test_an_expert_s_scores_are_those_of_its_tokens(is_normalised: bool) -> None:
    experts = Experts(num_experts=4, moe_intermediate_size=2, experts_per_token=2, is_normalised=is_normalised)
    generator = torch.Generator().manual_seed(7)
    logits, written = torch.randn(9, 4, generator=generator), torch.randn(9, 4, OUT, generator=generator)
    logits[:, 3] = -30.0  # which no token reaches
    rows, columns = torch.triu_indices(4, 4)
    sample = RoutingSample(logits, (written @ written.mT)[:, rows, columns])
    counts, sums = [0] * 4, [0.0] * 4
    for token in range(9):
        odds = [math.exp(float(logit)) for logit in logits[token]]
        chosen = sorted(range(4), key=lambda expert: -odds[expert])[:2]
        total = sum(odds[expert] for expert in (chosen if is_normalised else range(4)))
        for expert in chosen:
            counts[expert] += 1
            sums[expert] += odds[expert] / total * float(written[token, expert].norm())
    assert expert_scores("frequency", experts, sample, 0)[:, 0].tolist() == counts
    means = [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]
    assert expert_scores("reap", experts, sample, 0)[:, 0].tolist() == pytest.approx(means, rel=1e-5)
    first, again, other = (expert_scores("random", experts, sample, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
