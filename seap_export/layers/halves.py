"""The two halves of a decoder layer."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = ["HALVES", "Half"]

#: The projection at the end of each half of a layer, which also names the half: attention, then MLP.
Half = Literal["o_proj", "down_proj"]
HALVES: tuple[Half, ...] = get_args(Half)
