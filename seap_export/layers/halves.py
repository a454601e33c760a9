"""The two halves of a decoder layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch

from seap_export.families import names
from seap_export.families.names import QKV, Norm, Projection

__all__ = ["HALVES", "NORMS_AROUND", "READERS", "Half", "half_tensors"]

#: The projection at the end of each half of a layer, which also names the half: attention, then MLP.
Half = Literal["o_proj", "down_proj"]
HALVES: tuple[Half, ...] = get_args(Half)
#: The norms before and after each half; a family need not have both.
NORMS_AROUND: Mapping[Half, tuple[Norm, Norm]] = {
    "o_proj": ("input_layernorm", "post_self_attn_layernorm"),
    "down_proj": ("post_attention_layernorm", "post_mlp_layernorm"),
}
#: The projections at the start of each half.
READERS: Mapping[Half, tuple[Projection, ...]] = {"o_proj": QKV, "down_proj": ("gate_proj", "up_proj")}


def half_tensors(tensors: Mapping[str, torch.Tensor], layer: int, half: Half) -> dict[str, torch.Tensor]:
    """Those tensors of a layer that one half computes with; attention's include the norms of query and key heads."""
    mlp: list[Projection] = [*READERS["down_proj"], "down_proj"]
    of_mlp = {names.tensor(norm, layer) for norm in NORMS_AROUND["down_proj"]}
    of_mlp |= {name(projection, layer) for projection in mlp for name in (names.weight, names.bias)}
    return {name: tensor for name, tensor in tensors.items() if (name in of_mlp) is (half == "down_proj")}
