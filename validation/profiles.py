"""What passes as parity in each precision, and why."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from converters.precision import Precision
from validation.metrics import LogitFigures

__all__ = ["KL_TOLERANCE", "TOLERANCE", "Figure", "Limit", "Pass", "passes"]

Figure = Literal["max_abs", "mean_kl"]

#: Largest difference of a logit where both sides compute in float32 with the same weights. Sums are then in another
#: order only: ten times what SmolLM2-135M shows, and far below what a wrong weight, position or mask causes.
TOLERANCE = 1e-3
#: Largest mean KL divergence, nats a token, where the graph rounds what it computes: to 16 bits, or activations to
#: 8 bits in the products with int8 and int4 weights. Differences of single logits then say little. On the CPU,
#: SmolLM2-135M shows 0.006 at most for int8 and int4, and 5e-6 for fp16, whose products are computed in float32 there;
#: a GPU rounds those, too. bf16 has a mantissa of three bits less.
KL_TOLERANCE = {"fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2, "int4": 2e-2}


@dataclass(frozen=True)
class Limit:
    """A figure of a comparison and the largest value of it that passes."""

    figure: Figure
    value: float

    def __post_init__(self) -> None:
        if self.figure not in get_args(Figure) or not 0.0 < self.value < math.inf:
            raise ValueError(f"a limit is a positive number for one of {get_args(Figure)}")

    def found(self, figures: LogitFigures) -> float | None:
        """The figure's value; None where no logit is finite."""
        value: float | None = getattr(figures, self.figure)
        return value

    def is_exceeded(self, figures: LogitFigures) -> bool:
        """Whether the value is beyond the limit."""
        found = self.found(figures)
        return found is not None and found > self.value


@dataclass(frozen=True)
class Pass:
    """One way to run a graph, and what it must keep to.

    Attributes:
        label: Added to the names of cases; "" for the graph as it is.
        in_float: MatMulNBits is told not to round activations, so that the weights alone are rounded: as they are in
            the reference.
        limit: What passes.
    """

    label: str
    in_float: bool
    limit: Limit

    @property
    def suffix(self) -> str:
        """Behind the name of a case."""
        return f", {self.label}" if self.label else ""


def passes(precision: Precision, provider: str, tolerance: float, kl_tolerance: float | None) -> tuple[Pass, ...]:
    """The runs that a graph of this precision is judged by; the reference has the graph's own, rounded weights.

    Args:
        precision: The graph's.
        provider: Where it runs; only the CPU rounds the activations of int8 and int4 products.
        tolerance: Of `max_abs`.
        kl_tolerance: Of `mean_kl`; None: the one of the precision.
    """
    if precision == Precision():
        return (Pass("", in_float=False, limit=Limit("max_abs", tolerance)),)
    is_exact = precision.quantization is not None and precision.dtype == "fp32" and provider == "cpu"
    rounded = Limit("mean_kl", kl_tolerance or KL_TOLERANCE[precision.name])
    as_it_is = Pass("", in_float=False, limit=rounded)
    if not is_exact:
        return (as_it_is,)
    return (Pass("in float32", in_float=True, limit=Limit("max_abs", tolerance)), as_it_is)
