"""The ways to shrink the sublayers of a layer, from scores or by elimination."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec
from seap_export.model.families.names import Projection
from seap_export.pruning.plan.sublayers import LayerOptions, options_type
from seap_export.pruning.scores import LayerScores


def options_from_scores(spec: ModelSpec, layer: int, scores: LayerScores) -> LayerOptions:
    """The options of a layer whose channels are scored independently: a loss is the sum of the scores removed.

    A sublayer without scores stays whole.
    All sublayers write into the same residual stream, so that a channel's score means the same in each.
    """
    width = spec.hidden_size
    return tuple(
        options_type(sublayer).whole(sublayer, width)
        if sublayer.whole_because or sublayer.output not in scores
        else options_type(sublayer).from_scores(sublayer, width, scores[sublayer.output])
        for sublayer in spec.layers[layer].sublayers
    )


def options_from_elimination(
    spec: ModelSpec,
    layer: int,
    weights: Mapping[Projection, torch.Tensor],
    statistics: Mapping[Projection, Any],
    *,
    ridge: float,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - it is immutable
) -> LayerOptions:
    """The options of a layer whose projections are refitted; losses as in `Refit`.

    Removing an input that never varies costs nothing; its channels then keep their order.

    Args:
        weights: The output projections of the sublayers, [hidden_size, channels].
        statistics: The statistics that their kinds' `Options.statistics` give; covariances are overwritten.
        ridge: Ridge of the refit, as a fraction of the sum of the variances of an input's channels; positive.
    """
    if not 0.0 < ridge < math.inf:
        raise UsageError(f"ridge {ridge} is out of range; give a positive number")
    width = spec.hidden_size
    return tuple(
        options_type(sublayer).whole(sublayer, width)
        if sublayer.whole_because
        else options_type(sublayer).from_elimination(
            sublayer, width, weights[sublayer.output].to(device), statistics[sublayer.output], ridge
        )
        for sublayer in spec.layers[layer].sublayers
    )
