"""A variant's model on the grid of quantised formats, rounded with the calibration texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from seap_export.hashing import sha256_json
from seap_export.pipeline.folder.rounded import rounding_step
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.steps.step import Work
from seap_export.pipeline.steps.variant import OfVariant
from seap_export.rounding.grid import BlockQuantization
from seap_export.rounding.write import write_rounded_model

__all__ = ["RoundingStep"]

#: Increased when the same inputs give different bytes than before.
_VERSION = 2


@dataclass(frozen=True)
class RoundingStep(OfVariant):
    """Rounds the weights of the model folder; it serves all formats with this grid.

    Attributes:
        how: The grid.
    """

    kind = "rounding"
    resumes = True

    how: BlockQuantization

    @property
    def name(self) -> str:
        return rounding_step(self.variant, self.how)

    @property
    def label(self) -> str:
        return f"{self.variant}: rounding to {self.how.name.partition('-')[0]}"

    @property
    def units(self) -> int:
        return self.plan.ranking.units

    def _key(self) -> str:
        return sha256_json(["rounding", _VERSION, self.before.key, asdict(self.how)])

    def make(self, work: Work, place: Path, advance: Advance) -> None:
        """Writes the folder."""
        statistics = self.plan.ranking.statistics(work)
        write_rounded_model(
            work.folder / self.before.name,
            statistics,
            self.how,
            place,
            advance,
            compute=work.compute,
            vocabulary=self.plan.vocabulary,
        )
