"""Physically shrinking one decoder layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.activations.statistics import LayerMoments
from seap_export.families import ModelSpec
from seap_export.plan.plan import Compensation, LayerPlan

__all__ = ["compensation_bias", "shrink_layer"]


def shrink_layer(
    tensors: Mapping[str, torch.Tensor],
    dense: ModelSpec,
    layer: int,
    plan: LayerPlan,
    compensation: Compensation,
    moments: LayerMoments,
) -> dict[str, torch.Tensor]:
    """The layer's tensors cut down to the kept heads and neurons, under the same names.

    Query rows and o_proj columns follow the kept heads, key and value rows the kept groups, gate and up rows and
    down_proj columns the kept neurons; biases follow their rows; norms stay. Compensation adds a bias to o_proj
    and down_proj where something was removed.

    Args:
        tensors: All tensors of the dense layer under their full names.
        dense: Shapes of the dense model.
        layer: Index of the layer.
        plan: What it keeps.
        compensation: What happens to the mean contribution of what is removed.
        moments: Statistics at the inputs of o_proj and down_proj.
    """
    family = dense.family
    queries = _channels(plan.heads, dense.head_dim)
    keys = _channels(plan.kv_groups, dense.head_dim)
    neurons = torch.tensor(plan.neurons)
    rows = {"q_proj": queries, "k_proj": keys, "v_proj": keys, "gate_proj": neurons, "up_proj": neurons}
    columns = {"o_proj": queries, "down_proj": neurons}
    shrunk = dict(tensors)
    for projection, kept in rows.items():
        for name in (f"{family.tensor(projection, layer)}.weight", f"{family.tensor(projection, layer)}.bias"):
            if name in shrunk:
                shrunk[name] = shrunk[name].index_select(0, kept)
    for projection, kept in columns.items():
        weight, bias = f"{family.tensor(projection, layer)}.weight", f"{family.tensor(projection, layer)}.bias"
        if compensation == "bias" and len(kept) < tensors[weight].shape[1]:
            own = getattr(moments, projection)
            shrunk[bias] = compensation_bias(tensors[weight], tensors.get(bias), own.mean, kept)
        shrunk[weight] = tensors[weight].index_select(1, kept)
    return shrunk


def compensation_bias(
    weight: torch.Tensor, bias: torch.Tensor | None, mean: torch.Tensor, kept: torch.Tensor
) -> torch.Tensor:
    """The bias that makes up for removed input channels on average: W[:, removed] mean[removed] + old bias.

    Computed in float64; [out].
    """
    removed = torch.ones(weight.shape[1], dtype=torch.bool)
    removed[kept] = False
    moved = weight[:, removed].double() @ mean[removed]
    return moved if bias is None else moved + bias.double()


def _channels(heads: tuple[int, ...], head_dim: int) -> torch.Tensor:
    """The channels of the given heads, head_dim consecutive ones each."""
    return (torch.tensor(heads).unsqueeze(1) * head_dim + torch.arange(head_dim)).flatten()
