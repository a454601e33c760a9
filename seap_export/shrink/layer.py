"""Physically shrinking one decoder layer."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.families import ModelSpec, names
from seap_export.families.names import Projection
from seap_export.layers.halves import Half
from seap_export.plan.plan import LayerPlan

__all__ = ["kept_channels", "shrink_layer", "with_all_biases"]


def shrink_layer(
    tensors: Mapping[str, torch.Tensor], dense: ModelSpec, layer: int, plan: LayerPlan
) -> dict[str, torch.Tensor]:
    """The layer's tensors cut down to the kept heads and neurons, under the same names.

    Query rows and o_proj columns follow the kept heads, key and value rows the kept groups, gate and up rows and
    down_proj columns the kept neurons; biases follow their rows; norms stay.

    Args:
        tensors: All tensors of the dense layer, by full name.
        dense: Shapes of the dense model.
        layer: Index of the layer.
        plan: What it keeps.
    """
    queries = kept_channels(plan, dense, "o_proj")
    keys = _channels(plan.kv_groups, dense.head_dim)
    neurons = kept_channels(plan, dense, "down_proj")
    rows: dict[Projection, torch.Tensor] = {
        "q_proj": queries,
        "k_proj": keys,
        "v_proj": keys,
        "gate_proj": neurons,
        "up_proj": neurons,
    }
    columns: dict[Projection, torch.Tensor] = {"o_proj": queries, "down_proj": neurons}
    shrunk = dict(tensors)
    for projection, channels in rows.items():
        for name in (names.weight(projection, layer), names.bias(projection, layer)):
            if name in shrunk:
                shrunk[name] = shrunk[name].index_select(0, channels)
    for projection, channels in columns.items():
        weight = names.weight(projection, layer)
        shrunk[weight] = tensors[weight].index_select(1, channels)
    return shrunk


def with_all_biases(tensors: Mapping[str, torch.Tensor], shrunk: ModelSpec, layer: int) -> dict[str, torch.Tensor]:
    """The layer's tensors, with zeros for each missing bias that the shrunk model has a place for; float32."""
    zeros = {
        names.bias(projection, layer): torch.zeros(shrunk.projection_shape(projection, layer)[0])
        for projection in shrunk.layers[layer].biases
    }
    return {**zeros, **tensors}


def kept_channels(plan: LayerPlan, dense: ModelSpec, half: Half) -> torch.Tensor:
    """The kept input channels of o_proj or down_proj, as indices into the dense ones, int64."""
    return _channels(plan.heads, dense.head_dim) if half == "o_proj" else torch.tensor(plan.neurons)


def _channels(heads: tuple[int, ...], head_dim: int) -> torch.Tensor:
    """The channels of the given heads, head_dim consecutive ones each."""
    return (torch.tensor(heads).unsqueeze(1) * head_dim + torch.arange(head_dim)).flatten()
