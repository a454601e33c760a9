"""Guesses the cost of pruning a model, in a fraction of the time that one variant takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from seap_export.model.layers.compute import Compute
from seap_export.model.sources.source import Source
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.allocation.texts import FITTED_TOKENS, draw_texts
from seap_export.pruning.allocation.trials import Trials
from seap_export.pruning.plan.make import plan_variant
from seap_export.pruning.plan.ranked import Ranking
from seap_export.pruning.plan.settings import PlanSettings

#: The ratios that are tried.
RATIOS = (0.1, 0.3)
#: What a doubling of the tokens of the refit leaves of its KL, and what distillation does, roughly:
#: docs/research/measurements.md.
_DOUBLED, _DISTILLED = 0.9, 0.85


def guess_pruning(
    source: Source,
    statistics: TaskMixture,
    ranking: Ranking,
    settings: PlanSettings,
    ratios: Sequence[float],
    folder: Path,
    compute: Compute,
    on_trial: Callable[[object], None] = lambda trial: None,
) -> list[tuple[float, float]]:
    """Ratios, and the KL without so much of the model, nats per token; none if there are too few texts to tell.

    Plans are refitted on a few calibration texts and judged on others. From there it is guessed what more tokens and
    distillation will gain.

    Args:
        source: The dense model.
        statistics: The calibration texts.
        ranking: The ranking for the same statistics and settings.
        folder: An existing folder for temporary files.
        on_trial: Called after each ratio.
    """
    texts = draw_texts(statistics)
    if texts is None:
        return []
    doublings = math.log2(max(1.0, max(statistics.num_tokens, settings.fresh) / FITTED_TOKENS))
    gained = _DOUBLED**doublings * (_DISTILLED if settings.passes_over(statistics.num_tokens) else 1.0)
    trials, found = Trials(source, texts, folder, compute), list[tuple[float, float]]()
    for ratio in ratios:
        kl = trials.divergence(plan_variant(source, statistics, ranking, settings, ratio))
        found.append((ratio, gained * kl))
        on_trial(None)
    return found
