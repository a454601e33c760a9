"""The step that ranks channels for a task or mixture: the options of each layer with their losses, for any ratio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.mixtures import MixtureSpec
from seap_export.pipeline.steps.single.calibration import CalibrationStep
from seap_export.pipeline.steps.single.fresh import FreshStep
from seap_export.pipeline.steps.step import PathStep, StepContext
from seap_export.pruning.activations.statistics import Calibration
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.plan.make import rank_layers
from seap_export.pruning.plan.settings import PlanSettings

#: Increased when the same inputs give different bytes than before.
_VERSION = 1


@dataclass(frozen=True)
class RankingStep(PathStep):
    """Ranks the channels of every sublayer."""

    resumes = True

    mixture: MixtureSpec
    settings: PlanSettings
    calibrations: tuple[CalibrationStep, ...]

    @property
    def name(self) -> str:
        return f"ranking/{self.mixture.name}"

    @property
    def needs(self) -> tuple[PathStep, ...]:
        return self.calibrations

    @property
    def label(self) -> str:
        return f"ranking {self.mixture.name}"

    @property
    def units(self) -> int:
        return self.calibrations[0].layers

    def size(self, dense: Sizes) -> int:
        single = (one.channels for one in dense.spec.sublayers if one.unit == 1 or one.blocks > 1)
        return 16 * sum(single)  # their order and losses, in 8 bytes each

    @property
    def fresh(self) -> tuple[FreshStep, ...]:
        """The fresh texts that variants are refitted on, of each task that has fewer tokens than the settings want."""
        lacking = ((step, self.settings.fresh - (step.split.num_tokens or 0)) for step in self.calibrations)
        return tuple(FreshStep(step, number) for step, number in lacking if number > 0)

    @property
    def num_tokens(self) -> int:
        """The number of calibration tokens of all tasks together."""
        return sum(step.split.num_tokens or 0 for step in self.calibrations)

    def _inputs(self) -> dict[str, Any]:
        settings = self.settings
        return {
            **{step.name: step.key for step in self.calibrations},
            "weight": dict(self.mixture.weights),
            **{name: getattr(settings, name) for name in ("score", "ridge", "mix")},
            "sparsity": settings.square_heads,
            RELEASE: _VERSION,
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Writes each layer's options, and warns of experts with few calibration tokens."""
        statistics = self.statistics(work)
        rank_layers(work.source, statistics, self.settings, path, advance, compute=work.compute)
        scarce, every = statistics.scarce_experts(work.source.spec)
        if scarce and self.settings.compensation == "sequential":
            work.progress.warn(
                f"{self.mixture.name}: {scarce} of {every} experts get fewer calibration tokens than they have "
                "neurons, and change little in the refit; calibrate on more tokens"
            )

    def statistics(self, work: StepContext) -> TaskMixture:
        """Opens the statistics of the mixture's tasks, with their weights."""
        opened = {step.task: Calibration(work.of_task(step)) for step in self.calibrations}
        return TaskMixture(self.mixture.name, self.mixture.weights, opened)
