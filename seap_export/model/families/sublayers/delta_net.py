"""The gated delta net: heads that each read and correct a state, groups of which share queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.errors import InputError
from seap_export.model.families.names import DELTA, Norm, Projection
from seap_export.model.families.sublayers.grouped import Grouped


@dataclass(frozen=True, kw_only=True)
class DeltaNet(Grouped):
    """A gated delta net (Yang et al., 2024, arXiv 2412.06464); its channels are those of the value heads.

    Queries, keys and values are convolved and activated by SiLU, and queries and keys get the length 1. The state S
    [key_head_dim, value_head_dim] of a head then goes, with the decay g and the update rate b of each token,

        S = exp(g) S        S = S + b k (v - S^T k)^T        g = -exp(a_log) softplus(a + dt_bias)

    and S^T q / sqrt(key_head_dim), through an RMS norm of each head and times SiLU of the gate z, are its channels.

    Attributes:
        linear_num_key_heads: Number of heads of queries and keys, each of which some value heads share.
        key_head_dim: Channels of a query and of a key.
        kernel_size: Tokens that the convolution sees, the token itself and those before it.
    """

    output: ClassVar[Projection] = "delta_out_proj"
    noun: ClassVar[str] = "a gated delta net"
    label: ClassVar[str] = "linear_attn"
    size_keys: ClassVar[tuple[str, ...]] = ("linear_num_value_heads", "linear_num_key_heads")
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("input_layernorm", "post_self_attn_layernorm")
    states: ClassVar[tuple[str, ...]] = ("conv", "recurrent")
    can_rewind: ClassVar[bool] = False

    linear_num_value_heads: int
    linear_num_key_heads: int
    key_head_dim: int
    value_head_dim: int
    kernel_size: int

    def __post_init__(self) -> None:
        if min(self.linear_num_value_heads, self.linear_num_key_heads, self.key_head_dim, self.value_head_dim) < 1:
            raise InputError(
                "config.json: linear attention needs at least one key head and one value head; correct it, or "
                "download the model again"
            )
        if self.linear_num_value_heads % self.linear_num_key_heads:
            raise InputError(
                f"config.json: {self.linear_num_value_heads} value heads of linear attention are not a multiple of "
                f"{self.linear_num_key_heads} key heads; correct it, or download the model again"
            )
        if self.kernel_size < 2:
            raise InputError("config.json: a kernel of fewer than 2 tokens is not supported; use another model")

    @property
    def heads_per_group(self) -> int:
        """Number of value heads that share a key head."""
        return self.linear_num_value_heads // self.linear_num_key_heads

    @property
    def readers(self) -> tuple[Projection, ...]:
        return DELTA[:-1]

    @property
    def channels(self) -> int:
        return self.linear_num_value_heads * self.value_head_dim

    @property
    def unit(self) -> int:
        return self.value_head_dim

    @property
    def keys(self) -> int:
        """Number of channels of all keys; all queries have as many."""
        return self.linear_num_key_heads * self.key_head_dim

    @property
    def convolved(self) -> int:
        """Number of channels of queries, keys and values together."""
        return 2 * self.keys + self.channels

    def widths(self) -> Mapping[Projection, int]:
        heads = self.linear_num_value_heads
        return dict(zip(self.readers, (self.convolved, self.channels, heads, heads), strict=True))

    def inner_tensors(self) -> Mapping[str, tuple[int, ...]]:
        heads = (self.linear_num_value_heads,)
        return {
            "delta_kernel": (self.convolved, 1, self.kernel_size),
            "delta_a_log": heads,
            "delta_dt_bias": heads,
            "delta_norm": (self.value_head_dim,),
        }

    def rounded(self, hidden_size: int, block_size: int) -> tuple[Projection, ...]:
        """All but the update rate and the decay, which are small and decide what is remembered."""
        return ("delta_qkv_proj", "delta_z_proj", self.output)
