"""Expert scores: how much each head and each neuron matters to a task (SEAP, arXiv 2503.07605, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from seap_export.activations.moments import Moments
from seap_export.activations.statistics import LayerMoments

__all__ = ["SCORES", "LayerScores", "Score", "channel_scores", "layer_scores"]

Score = Literal["wifv", "wifn"]
SCORES: tuple[Score, ...] = get_args(Score)


@dataclass(frozen=True)
class LayerScores:
    """Importance scores of one layer, float64: `heads` [num_attention_heads], `neurons` [intermediate_size]."""

    heads: torch.Tensor
    neurons: torch.Tensor


def channel_scores(score: Score, weight: torch.Tensor, moments: Moments) -> torch.Tensor:
    """Importance of each input channel of a projection, float64 [channels].

    `wifv` is Var_j * ||W_:,j||_2^2, FLAP's weighted input feature variance (arXiv 2312.11983);
    `wifn` is mean_i |W_ij| * sqrt(E[x_j^2]), Wanda's weight-times-norm (arXiv 2306.11695) for whole channels.

    Args:
        score: Which of the two.
        weight: The projection's weight, [out, channels].
        moments: The moments of its input.
    """
    weight = weight.double()
    if score == "wifv":
        return moments.variance * weight.square().sum(0)
    return weight.abs().mean(0) * moments.mean_square.sqrt()


def layer_scores(
    score: Score, o_proj: torch.Tensor, down_proj: torch.Tensor, moments: LayerMoments, head_dim: int
) -> LayerScores:
    """Scores of a layer's query heads (mean over their head_dim channels) and neurons."""
    channels = channel_scores(score, o_proj, moments.o_proj)
    return LayerScores(
        heads=channels.view(-1, head_dim).mean(1),
        neurons=channel_scores(score, down_proj, moments.down_proj),
    )
