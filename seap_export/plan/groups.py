"""Numbers of query heads in a KV group that CUDA's attention prefers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seap_export.families import Attention, ModelSpec
from seap_export.plan.options import AttentionOption, LayerOptions

__all__ = ["XQA_HEADS", "preferring_groups"]

#: Query heads in a KV group, and channels of a head, for which GroupQueryAttention (onnxruntime-gpu 1.31) decodes with
#: its kernel XQA, on GPUs of compute capability 8.0 or later and without a soft cap; others take flash attention.
XQA_HEADS = frozenset({1, 2, 4, 5, 8, 16, 32})
_HEAD_DIMS = frozenset({64, 128, 256})


def preferring_groups(spec: ModelSpec, options: Sequence[LayerOptions], tolerance: float) -> tuple[LayerOptions, ...]:
    """The options, with a higher loss for those that cut groups to a number of heads that XQA does not take.

    Their losses are 1 + `tolerance` times as high. So the plan with the least sum of these losses has at most
    1 + `tolerance` times the least sum of the true ones. Groups that keep all their heads are left as they are, and so
    is everything where XQA takes no heads of the model.
    """
    if tolerance == 0.0 or spec.head_dim not in _HEAD_DIMS or spec.first(Attention).softcap is not None:
        return tuple(options)
    return tuple(
        replace(layer, attention=tuple(_weighed(layer, option, tolerance) for option in layer.attention))
        for layer in options
    )


def _weighed(options: LayerOptions, option: AttentionOption, tolerance: float) -> AttentionOption:
    heads = len(option.heads) // len(option.kv_groups)
    if heads in XQA_HEADS or heads == options.shape.attention.heads_per_group:
        return option
    return replace(option, loss=(1.0 + tolerance) * option.loss)
