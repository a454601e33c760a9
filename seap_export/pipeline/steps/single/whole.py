"""The whole model on the grid of a precision, rounded with a few of the calibration texts of a task or mixture."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pruning.activations.task_mixture import TaskMixture

#: The most calibration tokens that the whole model is rounded with, so that an export takes hardly longer. A model
#: that is better than a variant with so few is better still with all, which `export --ratio 0` uses.
ROUNDING_TOKENS = 8192


@dataclass(frozen=True)
class WholeRoundingStep(RoundingStep):
    """Rounds the whole model, which is the same for all tasks, with the texts of one task or mixture.

    Attributes:
        ranking: The ranking of this task or mixture, which knows its texts.
    """

    ranking: RankingStep

    @property
    def variant(self) -> str:
        return variant_name(self.ranking.mixture.name, 0.0)

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.before, *self.ranking.calibrations)

    @property
    def planned_work(self) -> PlannedWork:
        return replace(super().planned_work, tasks=self.ranking.tasks, most_tokens=ROUNDING_TOKENS)

    def _inputs(self) -> dict[str, Any]:
        texts = {step.name: step.key for step in self.ranking.calibrations}
        weights = dict(self.ranking.mixture.weights)
        return {**super()._inputs(), **texts, "weight": weights, "calibration tokens": ROUNDING_TOKENS}

    def statistics(self, work: StepContext) -> TaskMixture:
        return self.ranking.statistics(work).of_first_tokens(ROUNDING_TOKENS)
