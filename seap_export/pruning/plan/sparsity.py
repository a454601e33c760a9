"""How sparsity is spread over the depth of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from seap_export.errors import UsageError
from seap_export.pruning.plan.cost import Budget, CostModel
from seap_export.pruning.plan.keys import SettingError, check, key

SparsityKind = Literal["logistic", "uniform", "adaptive", "global"]
SPARSITY_KINDS: tuple[SparsityKind, ...] = get_args(SparsityKind)
_CURVES = ("logistic", "uniform")


def default_protection(kind: SparsityKind, num_hidden_layers: int) -> int:
    """Number of protected layers at each end.

    On a curve 2, as in the paper, but never more than a quarter of a shallow model in all; none where the losses or
    the ranking decide, as in FLAP.
    """
    return min(2, num_hidden_layers // 8) if kind in _CURVES else 0


def _is_no_curve(sparsity: Sparsity) -> str | bool:
    return sparsity.kind != "logistic" and f'kind = "{sparsity.kind}"'


@dataclass(frozen=True)
class Sparsity:
    """The sparsity setting; `logistic` is the paper's LB, `uniform` its UL, `global` its AL.

    Attributes:
        kind: `logistic` prunes later layers more, `uniform` prunes all alike, `adaptive` prunes where it costs least,
            `global` by one ranking of all heads and neurons.
        k: Steepness of the logistic curve.
        x0: Its midpoint, as a fraction of the depth of the unprotected layers.
        protect_first: Layers at the input side that stay whole; None: `default_protection`.
        protect_last: Layers at the output side that stay whole; None: `default_protection`.
        budget: The cost of which the ratio is a fraction; only `adaptive` supports others than `weights`.
        context: Positions in the cache, for the budgets that depend on them.
    """

    kind: SparsityKind = key("logistic")
    k: float = key(0.8, idle=_is_no_curve)
    x0: float = key(0.3, idle=_is_no_curve)
    protect_first: int | None = key(None, least=0)
    protect_last: int | None = key(None, least=0)
    budget: Budget = key("weights")
    context: int = key(1024, least=1, idle=lambda self: self.budget == "weights" and 'budget = "weights"')

    def __post_init__(self) -> None:
        check(self, "sparsity.")
        if self.budget != "weights" and self.kind != "adaptive":
            problem = f"'{self.budget}' needs kind = \"adaptive\"; {self.kind} sparsity counts weights only"
            raise SettingError("sparsity.budget", problem)

    @property
    def cost(self) -> CostModel:
        """The cost model of the budget, of which the ratio is a fraction."""
        return CostModel(self.budget, self.context)

    def resolved(self, num_hidden_layers: int) -> Sparsity:
        """The same setting with the protection spelled out for a model of this depth.

        Raises:
            UsageError: Every layer would be protected.
        """
        default = default_protection(self.kind, num_hidden_layers)
        first = default if self.protect_first is None else self.protect_first
        last = default if self.protect_last is None else self.protect_last
        if first + last >= num_hidden_layers:
            raise UsageError(
                f"all {num_hidden_layers} layers would be protected; lower protect_first or protect_last in the recipe"
            )
        return replace(self, protect_first=first, protect_last=last)

    def curve(self, num_hidden_layers: int) -> list[float]:
        """Relative sparsity of each layer, 0 where protected: 1 / (1 + exp(-k (x - x0))), x in [0, 1], or 1.

        On a curve, a layer's sparsity is this times a factor that is solved for the requested ratio. `adaptive` and
        `global` decide it in another way; for them, 1 means that a layer may be cut.
        """
        resolved = self.resolved(num_hidden_layers)
        first, last = resolved.protect_first or 0, resolved.protect_last or 0
        free = num_hidden_layers - first - last
        middle = [self._at(index / (free - 1) if free > 1 else 0.0) for index in range(free)]
        return [0.0] * first + middle + [0.0] * last

    def _at(self, x: float) -> float:
        # A logistic curve in the form that cannot overflow.
        return 0.5 * (1.0 + math.tanh(0.5 * self.k * (x - self.x0))) if self.kind == "logistic" else 1.0


#: All layers alike, none protected.
EVEN = Sparsity("uniform", protect_first=0, protect_last=0)
