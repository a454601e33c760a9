"""Mamba-2: heads that each keep a decaying state, in groups that share what is written to it and read from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from seap_export.errors import InputError
from seap_export.model.families.names import MAMBA, Norm, Projection
from seap_export.model.families.sublayers.grouped import Grouped


@dataclass(frozen=True, kw_only=True)
class Mamba(Grouped):
    """Mamba-2 (Dao and Gu, 2024, arXiv 2405.21060); its channels are those of the heads.

    The values x, and B and C of each group, are convolved and activated by SiLU. With t = softplus(dt + dt_bias) of
    each token, the state S [state_size, head_dim] of a head goes

        S = exp(-t exp(a_log)) S + t B x^T

    and its channels are those of S^T C + d x, times SiLU of the gate z, and normalised in groups if there is a norm.

    Attributes:
        mamba_n_groups: Number of groups, whose heads share B and C.
        state_size: Channels of B and of C.
        kernel_size: Tokens that the convolution sees, the token itself and those before it.
        has_kernel_bias: Whether the convolution has a bias.
        norm: Whether the channels of a group are normalised before or after they are gated; None: not at all.
        has_fixed_width: Whether transformers' class takes the number of channels from the hidden size.
        names_width: Whether config.json gives the number of channels, too.
        least_step: The least t, except in calls of a single token after others, as in transformers' classes.
    """

    output: ClassVar[Projection] = "mamba_out_proj"
    noun: ClassVar[str] = "Mamba-2"
    label: ClassVar[str] = "mamba"
    size_keys: ClassVar[tuple[str, ...]] = ("mamba_n_heads", "mamba_n_groups")
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("input_layernorm", "post_self_attn_layernorm")
    states: ClassVar[tuple[str, ...]] = ("conv", "recurrent")
    can_rewind: ClassVar[bool] = False

    mamba_n_heads: int
    mamba_n_groups: int
    head_dim: int
    state_size: int
    kernel_size: int
    has_kernel_bias: bool = True
    norm: Literal["before_gate", "after_gate"] | None = None
    has_fixed_width: bool = False
    names_width: bool = False
    least_step: float = 0.0

    def __post_init__(self) -> None:
        if min(self.mamba_n_heads, self.mamba_n_groups, self.head_dim, self.state_size) < 1:
            raise InputError(
                "config.json: Mamba-2 needs at least one head with a state; correct it, or download the model again"
            )
        if self.mamba_n_heads % self.mamba_n_groups:
            raise InputError(
                f"config.json: {self.mamba_n_heads} heads of Mamba-2 are not a multiple of {self.mamba_n_groups} "
                "groups; correct it, or download the model again"
            )
        if self.kernel_size < 2:
            raise InputError("config.json: a kernel of fewer than 2 tokens is not supported; use another model")

    @property
    def heads_per_group(self) -> int:
        return self.mamba_n_heads // self.mamba_n_groups

    @property
    def readers(self) -> tuple[Projection, ...]:
        return MAMBA[:-1]

    @property
    def channels(self) -> int:
        return self.mamba_n_heads * self.head_dim

    @property
    def unit(self) -> int:
        return self.head_dim

    @property
    def whole_because(self) -> str | None:
        if self.has_fixed_width:
            return "its width is that of the hidden states"
        return "its norm runs over all heads" if self.keeps_groups and self.mamba_n_groups == 1 else None

    @property
    def keeps_groups(self) -> bool:
        """True with a norm, since it normalises the heads of a group together."""
        return self.norm is not None

    @property
    def derived_sizes(self) -> dict[str, int]:
        return {"mamba_d_ssm": self.channels} if self.names_width else {}

    @property
    def keys(self) -> int:
        """Number of channels of B in all groups; C has as many."""
        return self.mamba_n_groups * self.state_size

    @property
    def convolved(self) -> int:
        """Number of channels of the values, B and C together."""
        return self.channels + 2 * self.keys

    @property
    def pads_left(self) -> bool:
        """False with biases, which kernels then see in place of the zeros before a text."""
        return not self.biases & set(self.readers)

    @property
    def steps_differ(self) -> bool:
        """True with a least time step, which calls of a single token do not apply."""
        return self.least_step > 0.0

    def widths(self) -> Mapping[Projection, int]:
        sizes = (self.channels, self.channels, self.keys, self.keys, self.mamba_n_heads)
        return dict(zip(self.readers, sizes, strict=True))

    def inner_tensors(self) -> Mapping[str, tuple[int, ...]]:
        heads: tuple[int, ...] = (self.mamba_n_heads,)
        bias: dict[str, tuple[int, ...]] = {"mamba_kernel_bias": (self.convolved,)} if self.has_kernel_bias else {}
        norm: dict[str, tuple[int, ...]] = {} if self.norm is None else {"mamba_norm": (self.channels,)}
        kernel = {"mamba_kernel": (self.convolved, 1, self.kernel_size), **bias}
        return {**kernel, "mamba_a_log": heads, "mamba_dt_bias": heads, "mamba_d": heads, **norm}
