"""From settings to rankings and plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from seap_export.activations.mixture import Mixture
from seap_export.layers.compute import Compute
from seap_export.plan.make import make_plan, rank_layers
from seap_export.plan.plan import Plan
from seap_export.plan.ranked import Ranking
from seap_export.plan.recipes import PlanSettings
from seap_export.sources.source import Source
from seap_export.vocabulary.table import Vocabulary

__all__ = ["plan_variant", "rank"]


def rank(
    source: Source,
    statistics: Mixture,
    settings: PlanSettings,
    folder: Path,
    on_layer: Callable[[int], None] = lambda layer: None,
    *,
    compute: Compute,
) -> Ranking:
    """Ranks the heads and neurons of every layer by the settings; the ranking serves plans of any ratio.

    Args:
        source: The dense model.
        statistics: Statistics of one task or of a mixture.
        settings: The score and what it depends on.
        folder: Where the ranking is kept, for `read_ranking`. It is empty, or has what an interrupted call with the
            same arguments left.
        on_layer: Called with the index of every finished layer.
        compute: Where elimination runs.
    """
    return rank_layers(
        source,
        statistics,
        settings.score,
        folder,
        on_layer,
        compute=compute,
        ridge=settings.ridge,
        mix=settings.mix,
        square_heads=settings.square_heads,
    )


def plan_variant(
    source: Source,
    statistics: Mixture,
    ranking: Ranking,
    settings: PlanSettings,
    ratio: float,
    vocabulary: Vocabulary | None = None,
) -> Plan:
    """The plan of one variant; `ranking` is `rank` of the same statistics and settings."""
    method = settings.method(len(source.spec.layers))
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values |= {"distillation": settings.passes, "trials": settings.tried}
    return make_plan(source, statistics, ranking, ratio=ratio, method=method, vocabulary=vocabulary, **values)
