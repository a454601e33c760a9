"""Expert scores: how much each head and each neuron matters to a task (SEAP, arXiv 2503.07605, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from seap_export.activations.moments import Moments
from seap_export.activations.statistics import LayerMoments
from seap_export.families import Attention, Mlp
from seap_export.families.names import Projection

__all__ = ["CHANNEL_SCORES", "SCORES", "ChannelScore", "LayerScores", "Score", "channel_scores", "layer_scores"]

#: Scores computed for each channel independently.
ChannelScore = Literal["wifv", "wifn"]
CHANNEL_SCORES: tuple[ChannelScore, ...] = get_args(ChannelScore)
#: All scores; `elimination` ranks by the loss of whole sets of channels instead (`seap_export.plan.elimination`).
Score = Literal["wifv", "wifn", "elimination"]
SCORES: tuple[Score, ...] = get_args(Score)


@dataclass(frozen=True)
class LayerScores:
    """Importance scores of one layer.

    Attributes:
        head_channels: Scores of the channels of heads, float64 [num_attention_heads, head_dim].
        neurons: Scores of the neurons, float64 [intermediate_size].
    """

    head_channels: torch.Tensor
    neurons: torch.Tensor

    def __post_init__(self) -> None:
        if self.head_channels.dim() != 2 or self.neurons.dim() != 1:
            raise ValueError("head_channels must be [num_attention_heads, head_dim], neurons a vector")

    @property
    def heads(self) -> torch.Tensor:
        """The score of each head, the mean over its channels; float64 [num_attention_heads]."""
        return self.head_channels.mean(1)


def channel_scores(score: ChannelScore, weight: torch.Tensor, moments: Moments) -> torch.Tensor:
    """Importance of each input channel of a projection, float64 [channels].

    `wifv` is Var_j * ||W_:,j||_2^2, FLAP's weighted input feature variance (arXiv 2312.11983);
    `wifn` is mean_i |W_ij| * sqrt(E[x_j^2]), Wanda's weight-times-norm (arXiv 2306.11695) for whole channels.

    Args:
        score: The score to compute.
        weight: The projection's weight, [out, channels].
        moments: The moments of the projection's input.
    """
    weight = weight.double()
    if score == "wifv":
        return moments.variance * weight.square().sum(0)
    return weight.abs().mean(0) * moments.mean_square.sqrt()


def layer_scores(
    score: ChannelScore,
    weights: Mapping[Projection, torch.Tensor],
    moments: LayerMoments,
    head_dim: int,
    *,
    square_heads: bool = False,
) -> LayerScores:
    """Scores of a layer's query heads (mean over their head_dim channels) and neurons.

    Args:
        score: The score to compute.
        weights: The output projections of the sublayers, [hidden_size, channels].
        moments: The moments of their inputs.
        head_dim: Channels per head.
        square_heads: Square the scores of the heads' channels before the mean, as FLAP's code does.
    """
    channels = channel_scores(score, weights[Attention.output], moments[Attention.output])
    channels = channels.square() if square_heads else channels
    return LayerScores(
        head_channels=channels.view(-1, head_dim),
        neurons=channel_scores(score, weights[Mlp.output], moments[Mlp.output]),
    )
