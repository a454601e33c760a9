"""Finds the order of rows and columns in llama.cpp's tensors where it is not that of the plain form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.gguf.architectures import Architecture, full_rope
from seap_export.model.families import Attention, DeltaNet, ModelSpec
from seap_export.model.families.names import Projection

#: Position i holds what the plain form has at position `order[i]`, int64; None: at i.
Order = NDArray[np.int64] | None


@dataclass(frozen=True)
class Orders:
    """The orders of rows and columns in the tensors of one layer."""

    architecture: Architecture
    spec: ModelSpec
    layer: int

    def rows(self, name: str) -> Order:
        """The order of the rows of a projection or another tensor of the layer, by its plain name."""
        for sublayer in self.spec.layers[self.layer].sublayers:
            if isinstance(sublayer, Attention):
                heads = {"q_proj": sublayer.num_attention_heads, "k_proj": sublayer.num_key_value_heads}
                heads |= {norm: width // sublayer.head_dim for norm, width in sublayer.inner_norms().items()}
                if name in heads:
                    return self._rotated(heads[name])
            if isinstance(sublayer, DeltaNet) and name in (*sublayer.readers, *sublayer.inner_tensors()):
                return _of_value_heads(sublayer, name)
        return None

    def columns(self, projection: Projection) -> Order:
        for sublayer in self.spec.layers[self.layer].sublayers:
            if isinstance(sublayer, DeltaNet) and projection == sublayer.output:
                return _of_value_heads(sublayer, "delta_z_proj")
        return None

    def _rotated(self, heads: int) -> Order:
        """How the rows of heads are ordered so that llama.cpp rotates the same pairs."""
        rope = full_rope(self.spec)
        if rope is None or rope.interleaved == self.architecture.neighbours:
            return None
        pairs = np.arange(rope.dim).reshape(2, -1).T if self.architecture.neighbours else None
        rotated = (np.arange(rope.dim).reshape(-1, 2).T if pairs is None else pairs).reshape(-1)
        head = np.concatenate([rotated, np.arange(rope.dim, self.spec.head_dim)])
        return _of_heads(np.arange(heads), head, self.spec.head_dim)


def _of_value_heads(net: DeltaNet, name: str) -> Order:
    """llama.cpp has the first value head of each key head, then the second ones, and so on."""
    heads = np.arange(net.linear_num_value_heads).reshape(-1, net.heads_per_group).T.reshape(-1)
    channels = _of_heads(heads, np.arange(net.value_head_dim), net.value_head_dim)
    match name:
        case "delta_qkv_proj" | "delta_kernel":
            return np.concatenate([np.arange(2 * net.keys), 2 * net.keys + channels])
        case "delta_z_proj":
            return channels
        case "delta_norm":
            return None
        case _:
            return heads


def _of_heads(heads: NDArray[np.int64], head: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    return np.asarray(heads[:, None] * width + head, np.int64).reshape(-1)
