"""Expert scores: how much each head and each neuron matters to a task (SEAP, arXiv 2503.07605, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch

from seap_export.model.families import Experts, LayerSpec
from seap_export.model.families.names import Projection
from seap_export.model.layers.sublayers.experts import routing_weights
from seap_export.pruning.activations.moments import Moments
from seap_export.pruning.activations.routing import RoutingSample
from seap_export.pruning.activations.statistics import LayerMoments

#: Scores computed for each channel independently.
ChannelScore = Literal["wifv", "wifn"]
CHANNEL_SCORES: tuple[ChannelScore, ...] = get_args(ChannelScore)
#: Scores of whole experts, for models that have some; everything else stays.
ExpertScore = Literal["reap", "frequency", "random"]
EXPERT_SCORES: tuple[ExpertScore, ...] = get_args(ExpertScore)
#: All scores; `elimination` ranks by the loss of whole sets of channels instead (`plan.elimination`).
Score = Literal["wifv", "wifn", "reap", "frequency", "random", "elimination"]
SCORES: tuple[Score, ...] = get_args(Score)
#: Scores of the channels of each sublayer, by its output projection: float64 [units, channels of a unit], or [units]
#: where each channel is a unit of its own.
LayerScores = Mapping[Projection, torch.Tensor]


def channel_scores(score: ChannelScore, weight: torch.Tensor, moments: Moments) -> torch.Tensor:
    """Importance of each input channel of a projection, float64 [channels].

    `wifv` is Var_j * ||W_:,j||_2^2, FLAP's weighted input feature variance (arXiv 2312.11983);
    `wifn` is mean_i |W_ij| * sqrt(E[x_j^2]), Wanda's weight-times-norm (arXiv 2306.11695) for whole channels.

    Args:
        weight: The projection's weight, [out, channels].
    """
    weight = weight.double()
    if score == "wifv":
        return moments.variance * weight.square().sum(0)
    return weight.abs().mean(0) * moments.mean_square.sqrt()


def layer_scores(
    score: ChannelScore,
    weights: Mapping[Projection, torch.Tensor],
    moments: LayerMoments,
    layer: LayerSpec,
    *,
    square_heads: bool = False,
) -> LayerScores:
    """Scores of the channels of a layer's sublayers, by their output projections, [hidden_size, channels]."""
    scores: dict[Projection, torch.Tensor] = {}
    for sublayer in layer.sublayers:
        channels = channel_scores(score, weights[sublayer.output], moments[sublayer.output])
        if sublayer.unit > 1:
            channels = channels.view(-1, sublayer.unit)
            channels = channels.square() if square_heads else channels
        scores[sublayer.output] = channels
    return scores


def expert_scores(score: ExpertScore, experts: Experts, sample: RoutingSample, seed: int) -> torch.Tensor:
    """Importance of each expert, float64 [experts, 1].

    `reap` is the mean over the expert's tokens of its weight times the norm of what it writes (arXiv 2510.13999),
    `frequency` the number of its tokens, `random` a number that depends on the seed alone.
    """
    weights = routing_weights(sample.logits, experts, sample.selection_bias).double()
    tokens = (weights > 0.0).double().sum(0)
    if score == "frequency":
        scores = tokens
    elif score == "reap":
        norms = sample.gram().diagonal(dim1=1, dim2=2).sqrt()
        scores = (weights * norms).sum(0) / tokens.clamp_min(1.0)
    else:
        generator = torch.Generator().manual_seed(seed)
        scores = torch.rand(experts.num_experts, dtype=torch.float64, generator=generator)
    return scores[:, None]


def unit_scores(scores: torch.Tensor) -> torch.Tensor:
    """The score of each unit, the mean over its channels; float64 [units]."""
    return scores.mean(1) if scores.dim() == 2 else scores
