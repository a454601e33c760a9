"""The ways to shrink the sublayers of a layer, from scores or by elimination."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from seap_export.activations.routing import RoutingSample
from seap_export.errors import UsageError
from seap_export.families import Experts, ModelSpec
from seap_export.families.names import Projection
from seap_export.plan.sublayers import ExpertOptions, LayerOptions, Options, options_type
from seap_export.scores import LayerScores

__all__ = ["options_from_elimination", "options_from_scores"]


def options_from_scores(spec: ModelSpec, layer: int, scores: LayerScores) -> LayerOptions:
    """The options of a layer whose channels are scored independently: a loss is the sum of the scores removed.

    All sublayers write into the same residual stream, so that a channel's score means the same in each.
    """
    width = spec.hidden_size
    return tuple(
        options_type(sublayer).whole(sublayer, width)
        if sublayer.whole_because
        else options_type(sublayer).from_scores(sublayer, width, scores[sublayer.output])
        for sublayer in spec.layers[layer].sublayers
    )


def options_from_elimination(
    spec: ModelSpec,
    layer: int,
    weights: Mapping[Projection, torch.Tensor],
    covariances: Mapping[Projection, torch.Tensor],
    *,
    ridge: float,
    routing: Mapping[Projection, tuple[RoutingSample, torch.Tensor]] = MappingProxyType({}),
    device: torch.device = torch.device("cpu"),  # noqa: B008 - it is immutable
) -> LayerOptions:
    """The options of a layer whose projections are refitted; losses as in `Refit`.

    Removing an input that never varies costs nothing; its channels then keep their order.

    Args:
        spec: The dense model.
        layer: Which layer.
        weights: The output projections of the sublayers, [hidden_size, channels].
        covariances: Centred covariances of their inputs, float64 [channels, channels], contiguous. They are
            overwritten.
        ridge: Ridge of the refit, as a fraction of the sum of the variances of an input's channels; positive.
        routing: For mixtures of experts, which have no covariance, a sample of tokens and the weight of each.
        device: Where this is computed.

    Raises:
        UsageError: The ridge is not positive and finite, or too small for a covariance.
        ValueError: A covariance is not finite or has the wrong shape.
    """
    if not 0.0 < ridge < math.inf:
        raise UsageError(f"ridge {ridge} is out of range; give a positive number")
    for output, covariance in covariances.items():
        weight = weights[output]
        if covariance.shape != (weight.shape[1],) * 2 or not bool(covariance.isfinite().all()):
            raise ValueError("a covariance must be finite, and as wide as the weight's input")
    options: list[Options[Any]] = []
    for sublayer in spec.layers[layer].sublayers:
        if sublayer.whole_because:
            options.append(options_type(sublayer).whole(sublayer, spec.hidden_size))
            continue
        if isinstance(sublayer, Experts):
            options.append(ExpertOptions.from_routing(sublayer, spec.hidden_size, *routing[sublayer.output]))
            continue
        weight, covariance = (parts[sublayer.output].to(device) for parts in (weights, covariances))
        eliminated = options_type(sublayer).from_elimination(sublayer, spec.hidden_size, weight, covariance, ridge)
        options.append(eliminated)
    return tuple(options)
