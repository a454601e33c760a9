"""What each layer may keep for a task or a mixture of tasks, and the losses: it serves plans of any ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seap_export.activations.mixture import Mixture
from seap_export.activations.statistics import Calibration
from seap_export.hashing import sha256_json
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.mixtures import MixtureSpec
from seap_export.pipeline.steps.calibration import CalibrationStep
from seap_export.pipeline.steps.step import Step, Work
from seap_export.plan.planning import rank
from seap_export.plan.recipes import PlanSettings

__all__ = ["RankingStep"]

#: Increased when the same inputs give different bytes than before.
_VERSION = 1


@dataclass(frozen=True)
class RankingStep(Step):
    """Ranks the heads and neurons of every layer.

    Attributes:
        mixture: The tasks, and their weights.
        settings: How plans are made, of which the ranking depends on a part.
        calibrations: The step of each task of the mixture.
    """

    kind = "ranking"
    resumes = True

    mixture: MixtureSpec
    settings: PlanSettings
    calibrations: tuple[CalibrationStep, ...]

    @property
    def name(self) -> str:
        return f"ranking/{self.mixture.name}"

    @property
    def needs(self) -> tuple[Step, ...]:
        return self.calibrations

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.mixture.weights)

    @property
    def label(self) -> str:
        return f"ranking {self.mixture.name}"

    @property
    def units(self) -> int:
        return self.calibrations[0].layers

    def _key(self) -> str:
        keys = {step.task: step.key for step in self.calibrations}
        parts = [[task, weight, keys[task]] for task, weight in self.mixture.weights.items()]
        own = self.settings
        return sha256_json(["ranking", _VERSION, parts, own.score, own.ridge, own.mix, own.square_heads])

    def make(self, work: Work, place: Path, advance: Advance) -> None:
        """Writes the options of each layer."""
        rank(work.source, self.statistics(work), self.settings, place, advance, compute=work.compute)

    def statistics(self, work: Work) -> Mixture:
        """The statistics of the mixture."""
        opened = {step.task: Calibration(work.of_task(step)) for step in self.calibrations}
        return Mixture(self.mixture.name, self.mixture.weights, opened)
