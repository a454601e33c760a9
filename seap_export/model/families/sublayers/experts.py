"""A mixture of experts: MLPs of one width, of which a router chooses some for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, get_args

from seap_export.errors import InputError
from seap_export.model.families.names import ROUTED, Norm, Projection
from seap_export.model.families.routing import Scores
from seap_export.model.families.sublayers.mlp import Activation
from seap_export.model.families.sublayers.sublayer import Sublayer


@dataclass(frozen=True)
class Gates:
    """The gates of SwiGLU with parameters: g sigmoid(alpha g) (u + offset), with g at most and |u| at most `limit`.

    Without parameters, it is SiLU of the gate, times up.
    """

    alpha: float = 1.0
    offset: float = 0.0
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Experts(Sublayer):
    """A mixture of gated MLPs.

    It is one wide MLP whose neurons are scaled by the router: its channels are those of the first expert, then those
    of the second, and so on, w_e act(gate(x)) * up(x) each. The weight w_e of an expert is its score, made of the
    router's product, and 0 for all but the `experts_per_token` best experts.

    So gate and up have the rows of one expert after the other, and the output projection their columns.

    Attributes:
        experts_per_token: How many experts compute a token.
        scores: Whether the scores are probabilities, the softmax of the products, or the sigmoid of each, or those of
            `sparsemixer`: for the best expert, its probability among those whose products s are no further below its
            own, s0, than (s0 - s) / max(|s|, s0) = 2 tolerance; for the next one the same without the best.
        tolerance: The tolerance of `sparsemixer`.
        is_normalised: Whether the weights of a token's experts are divided by their sum.
        scaling: The factor on the weights after that.
        has_selection_bias: Whether the experts with the highest sums of score and bias are chosen; their weights are
            the scores all the same.
        output_bias: The width of what each expert adds to what it writes, before it is weighted; 0: nothing.
        router_norm: The width of the norm through which the router reads the stream; 0: it reads what experts read.
        has_expert_scale: Whether the neurons of each expert are multiplied by a number.
        gates: Further parameters of SiLU.
    """

    output: ClassVar[Projection] = "experts_down_proj"
    noun: ClassVar[str] = "a mixture of experts"
    label: ClassVar[str] = "experts"
    size_keys: ClassVar[tuple[str, ...]] = ("num_experts", "moe_intermediate_size")
    norms_around: ClassVar[tuple[Norm | None, Norm]] = ("post_attention_layernorm", "post_mlp_layernorm")
    has_covariance: ClassVar[bool] = False  # that of all experts' neurons would not fit

    num_experts: int
    moe_intermediate_size: int
    experts_per_token: int
    scores: Scores = "softmax"
    tolerance: float = 0.0
    is_normalised: bool = True
    scaling: float = 1.0
    has_selection_bias: bool = False
    output_bias: int = 0
    router_norm: int = 0
    has_expert_scale: bool = False
    activation: Activation = "silu"
    gates: Gates = Gates()

    def __post_init__(self) -> None:
        if min(self.num_experts, self.moe_intermediate_size, self.experts_per_token) < 1:
            raise InputError("a mixture needs at least one expert for a token, with at least one neuron")
        if self.experts_per_token > self.num_experts:
            raise InputError(
                f"config.json: {self.experts_per_token} experts compute a token, but there are {self.num_experts}; "
                "correct it, or download the model again"
            )
        if self.activation not in get_args(Activation):
            known = ", ".join(get_args(Activation))
            raise InputError(f"activation '{self.activation}' is not supported; use a model with one of {known}")

    @property
    def readers(self) -> tuple[Projection, ...]:
        return ROUTED[:-1]

    @property
    def scalable(self) -> Projection | None:
        """The up projection, unless its products are clamped or have an offset."""
        return "experts_up_proj" if self.gates == Gates() else None

    @property
    def extra(self) -> str | None:
        return "a norm of its router" if self.router_norm else "scales of experts" if self.has_expert_scale else None

    @property
    def channels(self) -> int:
        return self.num_experts * self.moe_intermediate_size

    @property
    def unit(self) -> int:
        return self.moe_intermediate_size

    @property
    def blocks(self) -> int:
        return self.num_experts

    def active_weights(self, hidden_size: int) -> int:
        idle = self.num_experts - self.experts_per_token
        return self.weights(hidden_size) - idle * len(ROUTED[1:]) * self.moe_intermediate_size * hidden_size

    def inner_norms(self) -> Mapping[str, int]:
        return {"router_norm": self.router_norm} if self.router_norm else {}

    def inner_tensors(self) -> Mapping[str, tuple[int, ...]]:
        number = self.num_experts
        shapes: dict[str, tuple[int, ...]] = {"selection_bias": (number,)} if self.has_selection_bias else {}
        shapes |= {"expert_scale": (number,)} if self.has_expert_scale else {}
        return shapes | ({"experts_output_bias": (number, self.output_bias)} if self.output_bias else {})

    @property
    def written_biases(self) -> tuple[str, ...]:
        return ("experts_output_bias",) if self.output_bias else ()

    def widths(self) -> Mapping[Projection, int]:
        return {"router": self.num_experts, "experts_gate_proj": self.channels, "experts_up_proj": self.channels}

    def rounded(self, hidden_size: int, block_size: int) -> tuple[Projection, ...]:
        """All but the router, which is small and decides; none if a row of some matrix is not made of whole blocks."""
        is_whole = not hidden_size % block_size and not self.moe_intermediate_size % block_size
        return ROUTED[1:] if is_whole else ()

    def of_expert(self, expert: int) -> slice:
        """The range of one expert's channels."""
        return slice(expert * self.moe_intermediate_size, (expert + 1) * self.moe_intermediate_size)
