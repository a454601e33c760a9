"""From scores to a plan whose achieved ratio is the requested one."""

from __future__ import annotations

from collections.abc import Sequence

from seap_export.errors import UsageError
from seap_export.families import ModelSpec
from seap_export.plan.choice import Kept, LayerChoices, least_weights
from seap_export.plan.plan import LayerPlan
from seap_export.plan.sparsity import Sparsity
from seap_export.scores import LayerScores

__all__ = ["RATIO_TOLERANCE", "check_ratio", "solve_layers", "spread"]

#: The achieved ratio is this near to the requested one where the model's granularity allows.
RATIO_TOLERANCE = 0.005
#: Enough for a curve so steep that its values differ by the precision of a float64.
_BISECTIONS = 128


def solve_layers(
    spec: ModelSpec, scores: Sequence[LayerScores], ratio: float, sparsity: Sparsity, align: int
) -> tuple[tuple[LayerPlan, ...], float]:
    """The plan of every layer and the achieved ratio, the nearest to `ratio` over all strengths of the curve.

    The ratio counts the weights of the attention and MLP projections of *all* layers, protected ones included.
    A layer's sparsity is the curve's value times a factor; the factor is found by bisection.

    Raises:
        UsageError: The ratio is out of range or cannot be reached with this protection and alignment.
    """
    check_ratio(spec, ratio, sparsity, align)
    choices = [LayerChoices(spec, layer, own, align) for layer, own in enumerate(scores)]
    return spread(choices, sparsity.curve(len(choices)), ratio)


def spread(
    choices: Sequence[LayerChoices], curve: Sequence[float], ratio: float
) -> tuple[tuple[LayerPlan, ...], float]:
    """Spreads a ratio over layers as `curve` says; the plans and the achieved ratio."""
    total = sum(choice.total_weights for choice in choices)
    if ratio == 0.0:
        return tuple(choice.best(choice.total_weights)[0] for choice in choices), 0.0
    best_factor, best_error = 0.0, ratio
    low, high = 0.0, 1.0 / min((value for value in curve if value > 0.0), default=1.0)
    for _ in range(_BISECTIONS):
        factor = (low + high) / 2
        achieved = _achieved(choices, curve, factor, total)
        if abs(achieved - ratio) < best_error:
            best_factor, best_error = factor, abs(achieved - ratio)
        low, high = (factor, high) if achieved < ratio else (low, factor)
    kept = [choice.best(_budget(choice, value, best_factor)) for choice, value in zip(choices, curve, strict=True)]
    if best_error > RATIO_TOLERANCE:
        kept = _one_layer_nearer(choices, curve, kept, (1.0 - ratio) * total)
    return tuple(layer for layer, _ in kept), 1.0 - sum(weights for _, weights in kept) / total


def _one_layer_nearer(
    choices: Sequence[LayerChoices], curve: Sequence[float], kept: list[Kept], wanted: float
) -> list[Kept]:
    """Where the shapes are coarse: the layer whose change brings the sum of weights nearest to `wanted` is changed."""
    gap = wanted - sum(weights for _, weights in kept)
    best = kept
    for index, (choice, value) in enumerate(zip(choices, curve, strict=True)):
        if value > 0.0:
            changed = choice.nearest(kept[index][1] + gap)
            if abs(gap - changed[1] + kept[index][1]) < abs(wanted - sum(weights for _, weights in best)):
                best = [*kept[:index], changed, *kept[index + 1 :]]
    return best


def _budget(choice: LayerChoices, value: float, factor: float) -> float:
    return choice.total_weights * (1.0 - min(value * factor, 1.0))


def _achieved(choices: Sequence[LayerChoices], curve: Sequence[float], factor: float, total: int) -> float:
    kept = sum(choice.best(_budget(choice, value, factor))[1] for choice, value in zip(choices, curve, strict=True))
    return 1.0 - kept / total


def check_ratio(spec: ModelSpec, ratio: float, sparsity: Sparsity, align: int) -> None:
    """Refuses a ratio that no scores could reach.

    Raises:
        UsageError: The ratio or the alignment is out of range, or the protected layers leave too little to remove.
    """
    if not 0.0 <= ratio < 1.0:
        raise UsageError(f"ratio {ratio} is out of range; give at least 0 and less than 1, e.g. --ratio 0.2")
    if align < 1:
        raise UsageError(f"align {align} is out of range; give a positive multiple, e.g. --align 16")
    curve = sparsity.curve(len(spec.layers))
    dense = [spec.prunable_weights(layer) for layer in range(len(curve))]
    least = sum(
        least_weights(spec, layer, align) if value > 0.0 else dense[layer] for layer, value in enumerate(curve)
    )
    most = 1.0 - least / sum(dense)
    if ratio > most + RATIO_TOLERANCE:
        raise UsageError(
            f"ratio {ratio} cannot be reached: with {curve.count(0.0)} protected layers and --align {align} at most "
            f"{most:.3f} can be removed; lower the ratio, --align, --protect-first or --protect-last"
        )
