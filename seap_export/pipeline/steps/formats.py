"""The steps of a variant in one format: its files, and their parity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from converters.format import Format
from converters.formats import row_of
from seap_export.hashing import sha256_json
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.names import parity_file
from seap_export.pipeline.folder.rounded import write_format
from seap_export.pipeline.gate.parity import check_parity, held_out_prompts, write_report
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.rounding import RoundingStep
from seap_export.pipeline.steps.step import Work
from seap_export.pipeline.steps.variant import OfVariant, ShrinkStep
from seap_export.rounding.grid import BlockQuantization
from validation.parity.report import SCHEMA as PARITY_SCHEMA
from validation.runtimes.table import runtime_title

__all__ = ["FormatStep", "ParityStep", "format_step"]

#: Increased when the same inputs give another report than before.
_PARITY = 3


@dataclass(frozen=True)
class FormatStep(OfVariant):
    """Writes the files of a format.

    Attributes:
        before: The model, as it is or rounded.
        folder: The folder within the variant.
        own: The format.
    """

    kind = "writing"

    before: ShrinkStep | RoundingStep
    folder: str
    own: Format

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.folder}"

    @property
    def label(self) -> str:
        return f"{self.variant}: writing {row_of(self.own).title}"

    @property
    def units(self) -> int:
        return self.plan.ranking.units

    def _key(self) -> str:
        return sha256_json([self.own.name, self.before.key, self.own.settings()])

    def make(self, work: Work, place: Path, advance: Advance) -> None:
        """Writes the folder."""
        write_format(self.own, work.folder / self.before.name, place, advance)


def format_step(hf: ShrinkStep, folder: str, own: Format, how: BlockQuantization | None) -> FormatStep:
    """The step that writes a format.

    Args:
        hf: The model.
        folder: The folder within the variant.
        own: The format.
        how: The grid that the model is rounded to before, with calibration texts; None: the format rounds, if it does.
    """
    return FormatStep(hf if how is None else RoundingStep(hf, how), folder, own)


@dataclass(frozen=True)
class ParityStep(OfVariant):
    """Compares the files of a format, in the first of its runtimes, with torch.

    Attributes:
        before: The step that wrote them.
        settings: How.
    """

    kind = "parity"
    is_folder = False

    before: FormatStep
    settings: ParitySettings

    @property
    def runtime(self) -> str:
        """What runs the files."""
        return self.before.own.runtimes[0]

    @property
    def name(self) -> str:
        return f"{self.variant}/{parity_file(self.before.folder)}"

    @property
    def label(self) -> str:
        return f"{self.variant}: comparing {runtime_title(self.runtime)} with torch"

    @property
    def reused(self) -> str:
        return f"{self.variant}: reused"

    @property
    def prompts(self) -> list[str]:
        """The prompts that are compared."""
        splits = [step.split for step in self.plan.ranking.calibrations]
        held_out = [[(sample.prompt, sample.completion) for sample in split.held_out] for split in splits]
        return held_out_prompts(held_out, self.settings.prompts)

    def _key(self) -> str:
        own = self.settings
        values = [own.provider, own.decode_steps, own.long_tokens, [list(limit) for limit in own.limits.given]]
        return sha256_json([PARITY_SCHEMA, _PARITY, self.runtime, self.before.key, values, own.threads, self.prompts])

    def make(self, work: Work, place: Path, advance: Advance) -> None:
        """Writes the report, whatever its verdict."""
        variant = Export(work.folder).variant(self.variant)
        report = check_parity(
            variant,
            self.before.folder,
            self.runtime,
            self.prompts,
            self.settings,
            advance,
            work.compute,
            work.progress.say,
        )
        write_report(report, place)
