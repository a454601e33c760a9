"""Makes a plan, from the options of every layer, whose achieved ratio is the requested one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seap_export.common.toml_file import either
from seap_export.errors import UsageError
from seap_export.model.families import ModelSpec
from seap_export.pruning.plan.choice.adaptive import spend
from seap_export.pruning.plan.choice.layer import LayerChoices, Planned, one_layer_nearer
from seap_export.pruning.plan.choice.ranking import rank
from seap_export.pruning.plan.plan import LayerPlan
from seap_export.pruning.plan.settings import Balance, Layout
from seap_export.pruning.plan.sparsity import Sparsity
from seap_export.pruning.plan.sublayers import LayerOptions, layer_cost, smallest_layer, whole_words
from seap_export.pruning.scores import LayerScores

#: The achieved ratio is this near to the requested one if the model's granularity allows.
RATIO_TOLERANCE = 0.005
#: Enough for a curve so steep that its values differ by the precision of a float64.
_BISECTIONS = 128


def solve_layers(
    spec: ModelSpec,
    options: Sequence[LayerOptions],
    ratio: float,
    sparsity: Sparsity,
    align: int,
    balance: Balance = "loss",
    *,
    scores: Sequence[LayerScores] | None = None,
    sensitivity: npt.NDArray[np.float64] | None = None,
) -> tuple[tuple[LayerPlan, ...], float]:
    """The plan of every layer and the achieved ratio, as near to `ratio` as the granularity allows.

    The ratio is a fraction of the cost (`sparsity.budget`) of the sublayers of *all* layers, protected ones included.

    Args:
        ratio: Fraction of the cost to remove.
        align: Numbers of single channels, such as neurons, are multiples of this.
        balance: How the sublayers of a layer share its budget, on a curve.
        scores: Scores of each layer, for `global`.
        sensitivity: Importance of a unit of loss in each sublayer, float64 [layers, sublayers], for `adaptive`; e.g.
            the mean square of the gradient where they write into the residual stream.
    """
    check_ratio(spec, ratio, sparsity, align)
    if balance == "alike" and sparsity.kind in ("adaptive", "global"):
        raise UsageError(f"{sparsity.kind} sparsity weighs heads against neurons itself; it needs the balance 'loss'")
    choices = [LayerChoices(layer, align, balance) for layer in options]
    cost = sparsity.cost
    total = sum(layer_cost(layer, spec.hidden_size, cost) for layer in spec.layers)
    if ratio == 0.0:
        return tuple(choice.kept(choice.whole)[0] for choice in choices), 0.0
    curve, budget = sparsity.curve(len(spec.layers)), (1.0 - ratio) * total
    free = [value > 0.0 for value in curve]
    if sparsity.kind == "adaptive":
        if sensitivity is None:
            raise UsageError(
                "adaptive sparsity needs the sensitivity of the layers, which these statistics lack; calibrate again"
            )
        kept = spend(choices, free, budget, sensitivity, cost)
    elif sparsity.kind == "global":
        if scores is None:
            raise UsageError("global sparsity ranks the scores of heads and neurons; use the score wifv or wifn")
        kept = rank(choices, scores, free, budget)
    else:
        kept = _on_curve(choices, curve, ratio)
    if abs(sum(weight for _, weight in kept) - budget) > RATIO_TOLERANCE * total:
        kept = one_layer_nearer(choices, free, kept, budget, cost)
    return tuple(layer for layer, _ in kept), 1.0 - sum(weight for _, weight in kept) / total


def _on_curve(choices: Sequence[LayerChoices], curve: Sequence[float], ratio: float) -> list[Planned]:
    """The plan of every layer, and its weights: the nearest to the ratio over all strengths of the curve.

    A layer's sparsity is the curve's value times a factor; the factor is found by bisection.
    """
    total = sum(choice.total_weights for choice in choices)
    best = [choice.kept(choice.whole) for choice in choices]
    best_error = ratio
    low, high = 0.0, 1.0 / min((value for value in curve if value > 0.0), default=1.0)
    for _ in range(_BISECTIONS):
        factor = (low + high) / 2
        kept = [
            choice.best(choice.total_weights * (1.0 - min(value * factor, 1.0)))
            for choice, value in zip(choices, curve, strict=True)
        ]
        achieved = 1.0 - sum(weights for _, weights in kept) / total
        if abs(achieved - ratio) < best_error:
            best, best_error = kept, abs(achieved - ratio)
        if factor in (low, high):  # no float64 lies between them
            break
        low, high = (factor, high) if achieved < ratio else (low, factor)
    return best


def check_ratio(spec: ModelSpec, ratio: float, sparsity: Sparsity, align: int, layout: Layout = "per-layer") -> None:
    """Refuses a ratio that cannot be reached.

    Raises:
        UsageError: The ratio or the alignment is out of range, or the protected layers leave too little to remove.
    """
    if not 0.0 <= ratio < 1.0:
        raise UsageError(f"ratio {ratio} is out of range; give at least 0 and less than 1, e.g. --ratio 0.2")
    if align < 1:
        raise UsageError(f"align {align} is out of range; give a positive multiple, such as 16")
    curve, most = sparsity.curve(len(spec.layers)), largest_ratio(spec, sparsity, align, layout)
    first = spec.layers[0]
    if ratio > most + RATIO_TOLERANCE and smallest_layer(spec, first, align, layout) != smallest_layer(
        spec, first, align
    ):
        raise UsageError(
            f"ratio {ratio} cannot be reached: {spec.family.architecture} fixes sizes of uniform layers, so with "
            f"multiples of {align} neurons at most {most:.3f} can be removed; lower the ratio, or leave out --layout "
            "uniform"
        )
    if ratio > most + RATIO_TOLERANCE:
        whole = "".join(f"{line}; " for line in whole_words(spec))
        counted = "" if sparsity.budget == "weights" else f" of the {sparsity.budget}"
        resolved = sparsity.resolved(len(spec.layers))
        remedies = ["lower the ratio", *["align"] * (largest_ratio(spec, sparsity, 1, layout) > most)]
        remedies += [name for name in ("protect_first", "protect_last") if getattr(resolved, name)]
        in_recipe = " in the recipe" * (len(remedies) > 1)
        raise UsageError(
            f"ratio {ratio} cannot be reached: {whole}with {curve.count(0.0)} protected layers and multiples of "
            f"{align} neurons, at most {most:.3f}{counted} can be removed; {either(remedies)}{in_recipe}"
        )


def largest_ratio(spec: ModelSpec, sparsity: Sparsity, align: int, layout: Layout = "per-layer") -> float:
    """The fraction that is removed if every unprotected layer keeps as little as it can."""
    curve, cost = sparsity.curve(len(spec.layers)), sparsity.cost
    smallest = [smallest_layer(spec, layer, align, layout) for layer in spec.layers]
    least = sum(
        layer_cost(small if value > 0.0 else layer, spec.hidden_size, cost)
        for layer, small, value in zip(spec.layers, smallest, curve, strict=True)
    )
    return 1.0 - least / sum(layer_cost(layer, spec.hidden_size, cost) for layer in spec.layers)
