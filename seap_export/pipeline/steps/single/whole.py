"""The whole model on the grid of a precision, rounded once with a few of the calibration texts of all tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from seap_export.pipeline.folder.names import variant_name
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture

#: The most calibration tokens that the whole model is rounded with, so that an export takes hardly longer. A model
#: that is better than a variant with so few is better still with all, which `export --ratio 0` uses.
ROUNDING_TOKENS = 4096
_WHOLE = "whole"


@dataclass(frozen=True)
class WholeRoundingStep(RoundingStep):
    """Rounds the whole model for all tasks together, since it is compared with variants and not shipped."""

    calibrations: tuple[CalibrationStep, ...]

    @property
    def variant(self) -> str:
        return variant_name(_WHOLE, 0.0)

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return (self.before, *self.calibrations)

    def _inputs(self) -> dict[str, Any]:
        texts = {step.name: step.key for step in self.calibrations}
        return {**super()._inputs(), **texts, "calibration tokens": ROUNDING_TOKENS}

    def statistics(self, work: StepContext) -> TaskMixture:
        opened = {step.task: Calibration(work.of_task(step)) for step in self.calibrations}
        return TaskMixture(_WHOLE, dict.fromkeys(opened, 1.0), opened).of_first_tokens(ROUNDING_TOKENS)
