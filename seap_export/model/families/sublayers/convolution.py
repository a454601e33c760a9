"""The short convolution: channels that are independent of each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from seap_export.errors import InputError
from seap_export.model.families.names import BCX, Norm, Projection
from seap_export.model.families.sublayers.sublayer import Sublayer


@dataclass(frozen=True, kw_only=True)
class Convolution(Sublayer):
    """A gated, causal, depth-wise convolution: channel c is c(x) * (kernel_c convolved with b(x) * x(x)).

    Attributes:
        conv_dim: Number of channels.
        kernel_size: Tokens that a channel sees, the token itself and those before it.
    """

    output: ClassVar[Projection] = "out_proj"
    noun: ClassVar[str] = "a short convolution"
    label: ClassVar[str] = "conv"
    size_keys: ClassVar[tuple[str, ...]] = ("conv_dim",)
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("input_layernorm", "post_self_attn_layernorm")
    states: ClassVar[tuple[str, ...]] = ("conv",)
    can_rewind: ClassVar[bool] = False

    conv_dim: int
    kernel_size: int

    def __post_init__(self) -> None:
        if self.conv_dim < 1:
            raise InputError("a convolution needs at least one channel")
        if self.kernel_size < 2:
            raise InputError("config.json: a kernel of fewer than 2 tokens is not supported; use another model")
        if len(self.biases & set(BCX)) not in (0, len(BCX)):
            raise ValueError("either all parts of a convolution's input have a bias, or none has")

    @property
    def readers(self) -> tuple[Projection, ...]:
        return BCX

    @property
    def channels(self) -> int:
        return self.conv_dim

    @property
    def scalable(self) -> Projection | None:
        return "c_proj"

    def widths(self) -> Mapping[Projection, int]:
        return dict.fromkeys(self.readers, self.conv_dim)

    @property
    def pads_left(self) -> bool:
        """False with biases, which kernels then see in place of the zeros before a text."""
        return not self._has_biases

    @property
    def _has_biases(self) -> bool:
        return BCX[0] in self.biases

    def inner_tensors(self) -> Mapping[str, tuple[int, ...]]:
        """The kernels in the layout of torch's `Conv1d`, with biases if the projections have biases."""
        bias = {"kernel_bias": (self.conv_dim,)} if self._has_biases else {}
        return {"kernel": (self.conv_dim, 1, self.kernel_size), **bias}
