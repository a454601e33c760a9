"""Numbers of query heads in a KV group that CUDA's attention prefers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from seap_export.families import ModelSpec
from seap_export.plan.options import AttentionOption, LayerOptions
from seap_export.plan.plan import LayerPlan

__all__ = ["GROUP_TOLERANCE", "plan_loss", "with_preferred_groups"]

#: By how much, as a fraction, the loss of a plan may rise for the sake of preferred groups, by execution provider.
GROUP_TOLERANCE: Mapping[str, float] = MappingProxyType({"cpu": 0.0, "cuda": 0.01})
#: Query heads in a KV group, and channels of a head, for which GroupQueryAttention of onnxruntime-gpu 1.31 decodes with
#: its kernel XQA, on GPUs of compute capability 8.0 or later and without a soft cap; others take flash attention.
_HEADS = frozenset({1, 2, 4, 5, 8, 16, 32})
_HEAD_DIMS = frozenset({64, 128, 256})


def with_preferred_groups(spec: ModelSpec, options: Sequence[LayerOptions]) -> list[LayerOptions] | None:
    """The options without those that cut groups to a number of heads which XQA does not take.

    Groups that keep all their heads stay among the options, whatever their number.

    Returns:
        None if nothing is left out: no option is such a one, or XQA takes no heads of this model.
    """
    if spec.head_dim not in _HEAD_DIMS or spec.block.attention_softcap is not None:
        return None
    left = [
        replace(own, attention=tuple(option for option in own.attention if _is_preferred(own, option)))
        for own in options
    ]
    is_same = all(len(one.attention) == len(other.attention) for one, other in zip(left, options, strict=True))
    return None if is_same else left


def _is_preferred(options: LayerOptions, option: AttentionOption) -> bool:
    heads = len(option.heads) // len(option.kv_groups)
    return heads in _HEADS or heads == options.shape.layer.heads_per_group


def plan_loss(
    options: Sequence[LayerOptions], layers: Sequence[LayerPlan], sensitivity: npt.NDArray[np.float64]
) -> float:
    """The sum of each layer's attention loss and MLP loss, each times its sensitivity.

    Args:
        options: The options that the plans were chosen from.
        layers: What each layer keeps.
        sensitivity: Importance of a unit of loss in each layer's attention and MLP, float64 [layers, 2].
    """
    losses = [
        (
            next(option.loss for option in own.attention if option.heads == layer.heads),
            float(own.neuron_loss[len(layer.neurons)]),
        )
        for own, layer in zip(options, layers, strict=True)
    ]
    return float((sensitivity * np.array(losses)).sum())
