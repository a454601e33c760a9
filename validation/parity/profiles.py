"""The limits of parity for each precision, and the reasons for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal, get_args

from converters.onnx.precision import PRECISIONS, Precision, PrecisionName
from seap_export.common.providers import PROVIDERS
from seap_export.common.toml_file import read_toml
from seap_export.errors import UsageError
from validation.prompts import Case

#: Largest difference of a logit; largest difference of keys or values relative to the root mean square of their layer;
#: mean KL divergence in nats per token; share of clear choices that agree.
Figure = Literal["max_abs", "cache_error", "mean_kl", "clear_top1_agreement"]
FIGURES: tuple[Figure, ...] = get_args(Figure)
#: Figures whose limit is the smallest value that passes; for the others it is the largest.
_AT_LEAST: frozenset[str] = frozenset({"clear_top1_agreement"})
#: If both sides compute in float32 with the same weights, they differ only in the order of summation. SmolLM2-135M
#: shows a tenth of these values; a wrong weight, position or mask causes far more. Some inputs make a model
#: numerically unstable: if torch with another attention kernel or in float64 differs by more than a tenth of these
#: values, the limit is `EXACT_NOISE_FACTOR` times that difference.
_EXACT: dict[Figure, float] = {"max_abs": 1e-3, "cache_error": 1e-3}
#: Limits by precision. If the graph rounds what it computes (to 16 bits, or activations to 8 bits in products with
#: int8 and int4 weights), single logits say little and the predicted distribution counts. torch is then run with the
#: same rounding; the limit is `NOISE_FACTOR` times its divergence from float32, but no less than the value here, which
#: is too small to matter in a text of useful length.
DEFAULT_LIMITS: dict[PrecisionName, dict[Figure, float]] = {
    "fp32": _EXACT,
    "fp16": {"mean_kl": 1e-4, "clear_top1_agreement": 0.99},
    "bf16": {"mean_kl": 1e-3, "clear_top1_agreement": 0.99},
    "int8": {**_EXACT, "mean_kl": 1e-3},
    "int4": {**_EXACT, "mean_kl": 1e-3},
    "w8a8": {**_EXACT, "mean_kl": 1e-3},
    "w4a8": {**_EXACT, "mean_kl": 1e-3},
}
#: The least limit of `mean_kl` for a graph that is exact without the rounding, whose cost is a matter of quality.
_OF_EXACT = 1e-2
#: Two implementations of the same rounding differ by a small factor. A token's divergence varies by about its mean, or
#: more where a model amplifies rounding at a few tokens. So the limit of a mean over n tokens is `_ERRORS` standard
#: errors higher, each of them the variation / sqrt(n) of it.
NOISE_FACTOR, _ERRORS = 3.0, 3.0
#: A single token may diverge twenty times as much as the mean. So a stage of fewer tokens than this is not judged by
#: its own mean if that is beyond the limit, but by that of all tokens of the pass, if these are enough together. More
#: than `BEYOND_CHANCE` times the limit is a fault however few tokens show it.
ENOUGH_ALONE, ENOUGH_TOGETHER, BEYOND_CHANCE = 16, 64, 10.0
#: The factor on torch's noise for the largest differences in float32, which vary more.
EXACT_NOISE_FACTOR = 10.0
#: Noise widens these limits this many times at most: a larger difference between two runs of torch is no rounding.
_MOST_ROUNDING = 100.0
#: Unless a router chose another expert, which moves single logits and states by any amount. Then the predictions
#: count: their divergence may be `EXACT_NOISE_FACTOR` times that of torch from itself, within these bounds.
_LEAST_OF_CHOICES, _MOST_OF_CHOICES = 1e-3, 5e-2


@dataclass(frozen=True)
class Limit:
    """The limit of a figure: the last value that passes."""

    figure: Figure
    value: float

    @property
    def is_least(self) -> bool:
        """Whether the limit is a lower bound, so that higher values are better."""
        return self.figure in _AT_LEAST

    def is_exceeded(self, value: float | None) -> bool:
        """Whether a value exceeds the limit; a missing value does not."""
        if value is None:
            return False
        return value < self.value if self.is_least else not value <= self.value

    def excess(self, value: float | None) -> float:
        """How many times its limit a value is: above 1 if it fails, 0 if it is missing."""
        if value is None:
            return 0.0
        return (1.0 - value) / max(1.0 - self.value, 1e-9) if self.is_least else value / self.value


@dataclass(frozen=True)
class Limits:
    """The limits of every precision: the defaults, or the values given instead.

    Attributes:
        given: Precision, figure and value of each limit that replaces a default.
    """

    given: tuple[tuple[PrecisionName, Figure, float], ...] = ()

    def of(self, precision: PrecisionName) -> dict[Figure, float]:
        """The limits of a precision by figure: the defaults, or what was given in their place."""
        given = {figure: value for name, figure, value in self.given if name == precision}
        return {**DEFAULT_LIMITS[precision], **given}

    def looser(self, precision: PrecisionName) -> tuple[str, ...]:
        """The limits that are looser than the defaults, in words."""
        defaults = DEFAULT_LIMITS[precision]
        return tuple(
            f"{name} {figure} {value:g} is looser than the default {defaults[figure]:g}"
            for name, figure, value in self.given
            if name == precision and Limit(figure, defaults[figure]).is_exceeded(value)
        )


def read_limits(path: Path) -> Limits:
    """Reads limits from a TOML file with a table for each precision: `[int4]`, then `mean_kl = 0.01`.

    Raises:
        UsageError: The file cannot be read, or a precision, a figure or a value in it is invalid.
    """
    given: list[tuple[PrecisionName, Figure, float]] = []
    for precision, values in read_toml(path).values.items():
        if precision not in PRECISIONS or not isinstance(values, dict):
            raise UsageError(f"{path}: '{precision}' is not a precision; tables are {', '.join(PRECISIONS)}")
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
    """How far torch differs from itself in a case.

    Attributes:
        max_abs: Largest difference of a logit in float32 with another attention kernel.
        cache_error: The difference of the cache, as defined for `Figure`.
        mean_kl: Divergence from float32 if torch rounds as the graph does; 0 if nothing is rounded.
        kl_variation: Standard deviation of the tokens' divergence over its mean; at least 1.
        choices_kl: Divergence that goes with `max_abs` in a model with routers; 0 in others.
    """

    max_abs: float = 0.0
    cache_error: float = 0.0
    mean_kl: float = 0.0
    kl_variation: float = 1.0
    choices_kl: float = 0.0

    def __or__(self, other: Noise) -> Noise:
        return Noise(*(max(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))


#: Decode steps in float32: the first one reads the prompt's cache, the second one that of the first.
_FEW_STEPS = 2
#: The label of a pass whose activations stay in float32.
IN_FLOAT = "in float32"


@dataclass(frozen=True)
class Pass:
    """One way to run a graph, and its limits."""

    label: str
    in_float: bool
    limits: tuple[Limit, ...]
    given: frozenset[Figure] = frozenset()
    takes: Callable[[Case], bool] = lambda case: True
    steps: int | None = None

    def limits_for(self, noise: Noise, tokens: int) -> tuple[Limit, ...]:
        """The limits for a stage of `tokens` tokens, given torch's noise in its case."""
        exact = {figure: EXACT_NOISE_FACTOR * getattr(noise, figure) for figure in _EXACT}
        most = {figure: _MOST_ROUNDING * limit for figure, limit in _EXACT.items()}
        passing = {
            **{figure: min(exact[figure], most[figure]) for figure in _EXACT},
            "mean_kl": NOISE_FACTOR * (1.0 + _ERRORS * noise.kl_variation / math.sqrt(tokens)) * noise.mean_kl,
        }
        is_by_choices = noise.choices_kl > 0.0 and not self.given & _EXACT.keys()
        by_choices = {figure for figure in _EXACT if is_by_choices and exact[figure] > most[figure]}
        limits = [
            Limit(limit.figure, max(limit.value, passing[limit.figure]))
            if limit.figure in passing and limit.figure not in self.given
            else limit
            for limit in self.limits
            if limit.figure not in by_choices
        ]
        if len(limits) < len(self.limits):
            divergence = max(EXACT_NOISE_FACTOR * noise.choices_kl, _LEAST_OF_CHOICES)
            limits.append(Limit("mean_kl", min(divergence, _MOST_OF_CHOICES)))
        return tuple(limits)

    def may_be_chance(self, limit: Limit, value: float | None, tokens: int) -> bool:
        """Whether a value beyond a limit that was not given is a mean of too few tokens to be judged alone."""
        is_mean = limit.figure == "mean_kl" and self.is_rounding and limit.figure not in self.given
        return is_mean and tokens < ENOUGH_ALONE and limit.excess(value) <= BEYOND_CHANCE

    @property
    def figures(self) -> frozenset[Figure]:
        """The figures that it is judged by, unless noise puts others in their place."""
        return frozenset(limit.figure for limit in self.limits)

    @property
    def is_rounding(self) -> bool:
        """Whether it rounds what it computes, so that torch's noise is that of the same rounding."""
        return "mean_kl" in self.figures

    @property
    def suffix(self) -> str:
        """A comma and the label, which reports add to the names of this pass's cases; "" without a label."""
        return f", {self.label}" if self.label else ""


def passes(precision: Precision, provider: str, limits: Limits) -> tuple[Pass, ...]:
    """The runs that a graph of this precision is judged by; the reference has the graph's rounded weights.

    A graph that rounds activations runs twice, and only its products differ. Without the rounding limits are exact,
    but ONNX Runtime has no such kernel for 8 bits and dequantises each matrix in every call. So few calls show that
    the graph is right: a padded batch, tokens of the whole vocabulary, a long prompt, and two steps after each. The
    batch and the other cases run as the graph is, and show that its products are right for any number of tokens.

    Args:
        provider: Execution provider; only the CPU rounds the activations of int8 and int4 products.
    """
    rounds = PROVIDERS[provider].rounds_activations
    if precision.quantization is None or not rounds or precision.dtype != "fp32":
        # On the CPU a quantised file for a GPU, which does not round activations to 8 bits, runs without that.
        return (single_pass(precision, limits, in_float=rounds and precision.quantization is not None),)
    once = single_pass(precision, limits)
    exact = tuple(Limit(figure, limits.of(precision.name)[figure]) for figure in _EXACT)
    rounded = tuple(limit if limit.figure in once.given else Limit(limit.figure, _OF_EXACT) for limit in once.limits)
    return (
        Pass(IN_FLOAT, True, exact, once.given, takes=lambda case: case.in_float, steps=_FEW_STEPS),
        replace(once, limits=rounded, takes=lambda case: not case.in_float or len(case.rows) > 1),
    )


def single_pass(precision: Precision, limits: Limits, *, in_float: bool = False) -> Pass:
    """The pass of a graph that is run in one way only, which takes all cases."""
    values = limits.of(precision.name)
    judged = tuple(
        Limit(figure, values[figure]) for figure in values if precision.name == "fp32" or figure not in _EXACT
    )
    given = frozenset(figure for name, figure, _ in limits.given if name == precision.name)
    return Pass("", in_float, judged, given)
