"""`CostModel`: how costs are counted, as weights, multiply-adds per token, or bytes in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Budget = Literal["weights", "macs", "bytes"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)


@dataclass(frozen=True)
class CostModel:
    """How the cost of sublayers is counted; only ratios of costs are meaningful.

    Attributes:
        budget: `weights`: the weights of the projections. `macs`: multiply-adds per token, one for each weight and, in
            attention, two per head channel for each position attended to (QK^T and its product with V). `bytes`:
            memory in units of one weight's bytes, the weights and the KV cache, with elements as wide.
        context: Positions in the cache; a layer with a sliding window sees no more than that.
    """

    budget: Budget = "weights"
    context: int = 1024

    def __post_init__(self) -> None:
        if self.budget not in BUDGETS:
            raise ValueError(f"budget must be one of {BUDGETS}")
        if self.context < 1:
            raise ValueError("context must be positive")
