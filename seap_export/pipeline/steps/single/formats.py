"""The steps of a variant in one format: its files, and their parity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converters.format import Format
from converters.formats import row_of
from seap_export.pipeline.cost.sizes import Sizes
from seap_export.pipeline.folder.contents import Export
from seap_export.pipeline.folder.keys import RELEASE
from seap_export.pipeline.folder.names import parity_file
from seap_export.pipeline.folder.rounded import write_format
from seap_export.pipeline.gate.parity import check_parity, held_out_prompts, write_report
from seap_export.pipeline.progress import Advance
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import OfVariant, ShrinkStep
from seap_export.pipeline.steps.step import StepContext
from seap_export.pruning.rounding.grid import BlockQuantization
from validation.parity.report import SCHEMA as PARITY_SCHEMA
from validation.runtimes.table import runtime_title

#: Increased when the same inputs give another report than before.
_PARITY = 8


@dataclass(frozen=True)
class FormatStep(OfVariant):
    """Writes the files of a format."""

    before: ShrinkStep | RoundingStep
    folder: str
    format: Format

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.folder}"

    def size(self, dense: Sizes) -> int:
        return self.variant_sizes(dense).folder(self.format)

    @property
    def label(self) -> str:
        return f"{self.variant}: writing {row_of(self.format).title}"

    @property
    def units(self) -> int:
        return self.plan.ranking.units

    def _inputs(self) -> dict[str, Any]:
        settings = self.format.settings()
        release = settings.pop("version")
        return {"format": self.format.name, **settings, "weights": self.before.key, RELEASE: release}

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        write_format(self.format, work.folder / self.before.name, path, advance)


def format_step(hf: ShrinkStep, folder: str, format: Format, grid: BlockQuantization | None) -> FormatStep:
    return FormatStep(hf if grid is None else RoundingStep(hf, grid), folder, format)


@dataclass(frozen=True)
class ParityStep(OfVariant):
    """Compares the files of a format, in the first of its runtimes, with torch."""

    is_folder = False

    before: FormatStep
    settings: ParitySettings

    @property
    def runtime(self) -> str:
        """The runtime that is compared with torch: the first of the format."""
        return self.before.format.runtimes[0]

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
        """The held-out prompts that both runtimes are given."""
        splits = [step.split for step in self.plan.ranking.calibrations]
        held_out = [[(sample.prompt, sample.completion) for sample in split.held_out] for split in splits]
        return held_out_prompts(held_out, self.settings.prompts)

    def _inputs(self) -> dict[str, Any]:
        settings = self.settings
        return {
            self.before.name: self.before.key,
            "runtime": self.runtime,
            **{name: getattr(settings, name) for name in ("provider", "decode_steps", "long_tokens")},
            "limits": [list(limit) for limit in settings.limits.given],
            "prompts": self.prompts,
            RELEASE: [PARITY_SCHEMA, _PARITY],
        }

    def make(self, work: StepContext, path: Path, advance: Advance) -> None:
        """Writes the parity report, whatever its verdict."""
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
        write_report(report, path)
