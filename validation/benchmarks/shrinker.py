"""Shrunk models for the benchmarks."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from seap_export.activations.mixture import Mixture
from seap_export.activations.statistics import Calibration
from seap_export.allocation.planning import choose_plan
from seap_export.distillation.write import write_variant
from seap_export.layers.compute import Compute
from seap_export.pipeline.texts.fresh import fresh_texts
from seap_export.plan.make import rank_layers
from seap_export.plan.ranked import Ranking
from seap_export.plan.settings import PlanSettings
from seap_export.sources.source import Source

__all__ = ["Shrinker"]


class Shrinker:
    """Writes shrunk models; a ranking serves all ratios."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._key: tuple[Any, ...] = ()
        self._ranking: Ranking | None = None
        self._scratch = TemporaryDirectory()
        self._fresh = Path(self._scratch.name)  # texts serve all ratios, too

    def write(self, calibration: Calibration, settings: PlanSettings, ratio: float, folder: Path) -> float:
        """Writes the model into the existing `folder` and returns the achieved ratio."""
        task = calibration.record.task
        statistics = Mixture(task, {task: 1.0}, {task: calibration})
        key = (task, settings.score, settings.square_heads, settings.ridge)
        if self._ranking is None or key != self._key:
            with TemporaryDirectory() as kept:
                ranking = rank_layers(self._source, statistics, settings, Path(kept), compute=Compute())
            self._key, self._ranking = key, ranking
        with TemporaryDirectory() as kept:
            plan = choose_plan(self._source, statistics, self._ranking, settings, ratio, Path(kept), compute=Compute())
        fresh = []
        if ratio and settings.fresh:
            texts = self._fresh / f"{task}-{settings.fresh}"
            texts.mkdir(exist_ok=True)
            fresh = fresh_texts(self._source, statistics, settings.fresh, texts, compute=Compute())
        write_variant(self._source, plan, statistics, folder, fresh=fresh)
        return plan.achieved_ratio
