"""What passes as parity in each precision, and why: the one place where a limit of parity stands."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

from converters.precision import PRECISIONS, Precision, PrecisionName
from seap_export.errors import UsageError

__all__ = [
    "DEFAULT_LIMITS",
    "FIGURES",
    "Figure",
    "Limit",
    "Limits",
    "Noise",
    "Pass",
    "passes",
    "read_limits",
]

#: A largest difference of a logit; a largest difference of keys or values over the root mean square of their layer's;
#: a mean KL divergence, nats a token; a share of the tokens whose choice is clear.
Figure = Literal["max_abs", "cache_error", "mean_kl", "clear_top1_agreement"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
#: Of these the limit is the least value that passes, of the others the largest.
_AT_LEAST: frozenset[str] = frozenset({"clear_top1_agreement"})
#: Where both sides compute in float32 with the same weights, sums are in another order only. SmolLM2-135M shows a
#: tenth of these; a wrong weight, position or mask causes far more. Some texts drive a model to where it is all but
#: discontinuous: where torch with another attention kernel is further off than a tenth of these, so many times
#: (`EXACT_NOISE_FACTOR`) its own noise passes.
_EXACT: dict[Figure, float] = {"max_abs": 1e-3, "cache_error": 1e-3}
#: By precision. Where the graph rounds what it computes (to 16 bits, or activations to 8 bits in the products with
#: int8 and int4 weights), differences of single logits say little, and what counts is what the model would say. There
#: torch rounds alike, and what passes is `NOISE_FACTOR` times its own divergence from float32, or what stands here if
#: that is more: less no text of a useful length could tell from nothing.
DEFAULT_LIMITS: dict[PrecisionName, dict[Figure, float]] = {
    "fp32": _EXACT,
    "fp16": {"mean_kl": 1e-4, "clear_top1_agreement": 0.99},
    "bf16": {"mean_kl": 1e-3, "clear_top1_agreement": 0.99},
    "int8": {**_EXACT, "mean_kl": 1e-3},
    "int4": {**_EXACT, "mean_kl": 1e-3},
}
#: Two ways to round alike differ by a small factor. A token's divergence varies by about its mean from token to token,
#: so that a mean over n tokens gets `_ERRORS` standard errors, `_ERRORS` / sqrt(n) of it, on top.
NOISE_FACTOR, _ERRORS = 3.0, 3.0
#: The same for largest differences in float32, which vary more.
EXACT_NOISE_FACTOR = 10.0


@dataclass(frozen=True)
class Limit:
    """A figure of a comparison and the last value of it that passes."""

    figure: Figure
    value: float

    def __post_init__(self) -> None:
        if self.figure not in FIGURES or not 0.0 < self.value < math.inf:
            raise ValueError(f"a limit is a positive number for one of {FIGURES}")

    @property
    def is_least(self) -> bool:
        """Whether more is better."""
        return self.figure in _AT_LEAST

    def is_exceeded(self, found: float | None) -> bool:
        """Whether a value is beyond the limit; one that could not be measured is not."""
        if found is None:
            return False
        return found < self.value if self.is_least else not found <= self.value

    def excess(self, found: float | None) -> float:
        """How many times its limit a value is, beyond 1 if it fails; 0 where there is none."""
        if found is None:
            return 0.0
        return (1.0 - found) / max(1.0 - self.value, 1e-9) if self.is_least else found / self.value


@dataclass(frozen=True)
class Limits:
    """The limits of every precision: the defaults, but for those that are given here.

    Attributes:
        given: Precision, figure and value of each limit that replaces a default.
    """

    given: tuple[tuple[PrecisionName, Figure, float], ...] = ()

    def __post_init__(self) -> None:
        for precision, figure, value in self.given:
            if precision not in PRECISIONS or figure not in DEFAULT_LIMITS[precision]:
                raise ValueError(f"{precision} has no limit {figure}")
            Limit(figure, value)

    def of(self, precision: PrecisionName) -> dict[Figure, float]:
        """The limits of a precision."""
        own = {figure: value for name, figure, value in self.given if name == precision}
        return {**DEFAULT_LIMITS[precision], **own}

    def is_given(self, precision: PrecisionName, figure: Figure) -> bool:
        """Whether a limit replaces the default."""
        return any((name, of) == (precision, figure) for name, of, _ in self.given)

    def looser(self, precision: PrecisionName) -> tuple[str, ...]:
        """The limits that let more pass than the defaults, in words."""
        found = []
        for name, figure, value in self.given:
            default = DEFAULT_LIMITS[name][figure]
            if name == precision and Limit(figure, default).is_exceeded(value):
                found.append(f"{name} {figure} {value:g} is looser than the default {default:g}")
        return tuple(found)


def read_limits(path: Path) -> Limits:
    """Limits from a TOML file, a table for each precision: `[int4]`, then `mean_kl = 0.01`.

    Raises:
        UsageError: The file cannot be read, or names a precision, a figure or a value that cannot be.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: cannot be read as TOML ({' '.join(str(error).split())})") from error
    given: list[tuple[PrecisionName, Figure, float]] = []
    for precision, values in tables.items():
        if precision not in PRECISIONS or not isinstance(values, dict):
            raise UsageError(f"{path}: '{precision}' is no precision; tables are {', '.join(PRECISIONS)}")
        for figure, value in values.items():
            given.append((precision, *_checked(path, precision, figure, value)))
    return Limits(tuple(sorted(given)))


def _checked(path: Path, precision: PrecisionName, figure: str, value: object) -> tuple[Figure, float]:
    known = DEFAULT_LIMITS[precision]
    if figure not in known:
        raise UsageError(f"{path}: {precision} has no limit '{figure}'; it has {', '.join(known)}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UsageError(f"{path}: {precision} {figure} must be a positive number, not {value!r:.40}")
    return figure, float(value)  # type: ignore[return-value]


@dataclass(frozen=True)
class Noise:
    """How far torch is from itself in a case.

    Attributes:
        max_abs: In float32, with another attention kernel: the largest difference of a logit.
        cache_error: The same of the cache, as the `Figure`.
        mean_kl: With its own rounding, as the graph rounds, from float32; 0 where nothing is rounded.
    """

    max_abs: float = 0.0
    cache_error: float = 0.0
    mean_kl: float = 0.0

    def __or__(self, other: Noise) -> Noise:
        return Noise(*(max(getattr(self, own.name), getattr(other, own.name)) for own in fields(self)))


@dataclass(frozen=True)
class Pass:
    """One way to run a graph, and what it must keep to.

    Attributes:
        label: Added to the names of cases; "" for the graph as it is.
        in_float: MatMulNBits is told not to round activations, so that the weights alone are rounded: as they are in
            the reference.
        limits: What passes.
        given: The figures whose limits were given, so that no noise widens them.
    """

    label: str
    in_float: bool
    limits: tuple[Limit, ...]
    given: frozenset[Figure] = frozenset()

    def limits_for(self, noise: Noise, tokens: int) -> tuple[Limit, ...]:
        """What passes in a stage of so many tokens of a case where torch has this noise."""
        passing = {
            "max_abs": EXACT_NOISE_FACTOR * noise.max_abs,
            "cache_error": EXACT_NOISE_FACTOR * noise.cache_error,
            "mean_kl": NOISE_FACTOR * (1.0 + _ERRORS / math.sqrt(tokens)) * noise.mean_kl,
        }
        return tuple(
            Limit(own.figure, max(own.value, passing[own.figure]))
            if own.figure in passing and own.figure not in self.given
            else own
            for own in self.limits
        )

    @property
    def suffix(self) -> str:
        """Behind the name of a case."""
        return f", {self.label}" if self.label else ""


def passes(precision: Precision, provider: str, limits: Limits) -> tuple[Pass, ...]:
    """The runs that a graph of this precision is judged by; the reference has the graph's own, rounded weights.

    Args:
        precision: The graph's.
        provider: Where it runs; only the CPU rounds the activations of int8 and int4 products.
        limits: What passes.
    """
    values = limits.of(precision.name)
    exact = tuple(Limit(figure, value) for figure, value in values.items() if figure in _EXACT)
    rounded = tuple(Limit(figure, value) for figure, value in values.items() if figure not in _EXACT)
    given = frozenset(figure for figure in values if limits.is_given(precision.name, figure))
    runs = []
    if exact and (precision.quantization is None or (precision.dtype == "fp32" and provider == "cpu")):
        runs.append(Pass("" if not rounded else "in float32", in_float=bool(rounded), limits=exact, given=given))
    if rounded:
        runs.append(Pass("", in_float=False, limits=rounded, given=given))
    return tuple(runs)
