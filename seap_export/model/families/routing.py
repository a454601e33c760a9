"""The mixtures of experts of a family, as the `[experts]` table of its TOML file gives them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: How a router's products become scores: as probabilities of all experts, one by one, or, one expert after
#: another, probabilities among those that are about as good.
Scores = Literal["softmax", "sigmoid", "sparsemixer"]


@dataclass(frozen=True)
class Routing:
    """Which layers have a mixture of experts in the place of an MLP, and how it computes.

    Attributes:
        module: The torch module of the mixture in transformers 5, whose `experts` hold gate and up of all in one
            tensor; empty: that of the layer.
        router: The name of the router in it; `NAME.PART`, if a part of it has its weight.
        gives_probabilities: Whether that router gives the softmax of its products, and not these.
        switch: Key that must be true.
        first: Key of the first layer that has one.
        last: Key of the last one; -1: it is the last layer.
        step: Key of the number n where only each n-th layer has one.
        dense: Key of the indices of layers that have none.
        types: Key of what the layers have, `sparse` or `dense`; where it is given, it counts alone.
        scores: How the router's products become scores; see `Experts`.
        normalised: Whether the weights of a token's experts are divided by their sum, or the key that says so.
        tolerance: Key of half the distance within which experts are about as good; see `Experts`.
        scaling: Key of the factor on the weights.
        bias_is_row: Whether the bias of the choice is stored as a matrix with one row.
        as_parameters: Whether checkpoints have the parameters of the module.
        inputs_first: Whether they have them as matrices with their inputs first, in which gate and up take turns.
        output_bias: Whether each expert adds a bias to what it writes.
        alpha: Key of a factor; see `Gates`.
        limit: Key of a bound; see `Gates`.
        router_norm: Whether the router reads the stream through a norm of its own, the `router_norm` of `names`.
        expert_scale: Whether what each expert writes is multiplied by a number, the `expert_scale` of `names`.
        beside_mlp: Whether there is an MLP, too, which reads the same; not with 0 neurons.
        shared: The key of the number of neurons of a shared expert.
        shared_number: The key of the number of shared experts of the same size as others, which are stored as one.
        shared_scale: Whether the shared expert is scaled by a product of its input.
    """

    module: str
    router: str = "gate"
    gives_probabilities: bool = False
    switch: str = ""
    first: str = ""
    last: str = ""
    step: str = ""
    dense: str = ""
    types: str = ""
    scores: Scores = "softmax"
    normalised: bool | str = True
    tolerance: str = ""
    scaling: str = ""
    bias_is_row: bool = False
    as_parameters: bool = False
    inputs_first: bool = False
    output_bias: bool = False
    alpha: str = ""
    limit: str = ""
    router_norm: bool = False
    expert_scale: bool = False
    beside_mlp: bool = False
    shared: str = ""
    shared_number: str = ""
    shared_scale: bool = False

    def __post_init__(self) -> None:
        if self.shared and self.shared_number:
            raise ValueError("experts: either shared or shared_number")

    @property
    def are_everywhere(self) -> bool:
        """Whether all layers have a mixture."""
        return not (self.first or self.last or self.step or self.dense or self.types)

    @property
    def are_parameters(self) -> bool:
        """Whether checkpoints have the parameters of the module."""
        return self.as_parameters or self.inputs_first

    def path(self, part: str) -> str:
        """Where a layer of transformers' model has a part of the mixture."""
        return f"{self.module}.{part}" if self.module else part

    @property
    def have_shared(self) -> bool:
        """Whether there are shared experts."""
        return bool(self.shared or self.shared_number)
