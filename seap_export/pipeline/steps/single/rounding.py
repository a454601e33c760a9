"""A variant's model on the grid of quantised formats, rounded with the calibration texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.hf.format import HfFormat
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.rounded import rounding_step
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.single.variant import OfVariant
from seap_export.pipeline.steps.step import StepContext
from seap_export.pruning.activations.task_mixture import TaskMixture
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.write import write_rounded_model

#: Increased when the same inputs give different bytes than before.
_VERSION = 7


@dataclass(frozen=True)
class RoundingStep(OfVariant):
    """Rounds the weights of the model folder; it serves all formats with this grid."""

    resumes = True

    grid: BlockQuantization

    @property
    def name(self) -> str:
        return rounding_step(self.variant, self.grid)

    @property
    def label(self) -> str:
        return f"{self.variant}: rounding to {self.grid.name.partition('-')[0]}"

    @property
    def units(self) -> int:
        return self.plan.ranking.units

    def size(self, dense: Sizes) -> int:
        return self.variant_sizes(dense).folder(HfFormat("fp32"))

    def _inputs(self) -> dict[str, Any]:
        return {self.before.name: self.before.key, **self.grid.to_json(), RELEASE: _VERSION}

    def statistics(self, work: StepContext) -> TaskMixture:
        """The calibration texts that the model is rounded with."""
        return self.plan.ranking.statistics(work)

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        if self.grid.average is not None:
            work.progress.say(f"{self.variant}: choosing the bits of each matrix")
        write_rounded_model(
            work.folder / self.before.name,
            self.statistics(work),
            self.grid,
            path,
            advance,
            compute=work.compute,
            vocabulary=self.plan.vocabulary,
        )
