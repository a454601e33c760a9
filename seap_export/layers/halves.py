"""The two halves of a decoder layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from seap_export.families.names import QKV, Norm, Projection

__all__ = ["HALVES", "NORMS_AROUND", "READERS", "Half"]

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
