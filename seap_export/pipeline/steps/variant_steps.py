"""The steps that make one variant, in order, and the choice of its folders to measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from converters.format import Format
from seap_export.model.families import ModelSpec
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.request.measured import Measured, measured_of
from seap_export.pipeline.steps.single.formats import FormatStep, ParityStep, format_step
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.single.rounding import RoundingStep
from seap_export.pipeline.steps.single.variant import OfVariant, PlanStep, ShrinkStep


@dataclass(frozen=True)
class VariantSteps:
    """The steps of one variant, without those that all variants share."""

    plan: PlanStep
    hf: ShrinkStep
    rounded: tuple[RoundingStep, ...]
    formats: Mapping[str, FormatStep]
    parity: Mapping[str, ParityStep]

    @property
    def all(self) -> tuple[PlanStep | OfVariant, ...]:
        """All steps in order: each format is compared before the next is written."""
        pairs = zip(self.formats.values(), self.parity.values(), strict=True)
        return self.plan, self.hf, *self.rounded, *(step for pair in pairs for step in pair)

    @property
    def measured(self) -> Measured | None:
        """The folder whose quality and speed are measured; None: none is written beside `hf`."""
        return measured_of({folder: step.format for folder, step in self.formats.items()})

    @property
    def every_folder(self) -> tuple[Measured, ...]:
        """Each folder beside `hf`, as one to measure."""
        return tuple(Measured(folder, step.format) for folder, step in self.formats.items())


def variant_steps(
    dense: ModelSpec,
    request: ExportRequest,
    ranking: RankingStep,
    ratio: float,
    folders: Mapping[str, Format],
    vocabulary: Vocabulary | None = None,
    *,
    learns: bool,
) -> VariantSteps:
    """The steps of one variant.

    Args:
        ratio: Fraction to remove.
        vocabulary: The tokens that are kept; None: all.
        learns: Whether it is trained on the right answers of its tasks, if they are to be learnt.
    """
    plan = PlanStep(ranking, ratio, vocabulary)
    hf = ShrinkStep(plan, learns)
    formats = {
        folder: format_step(hf, folder, format, request.grid(format, dense)) for folder, format in folders.items()
    }
    before = (step.before for step in formats.values())
    rounded = {step.name: step for step in before if isinstance(step, RoundingStep)}
    parity = {folder: ParityStep(step, request.parity) for folder, step in formats.items()}
    return VariantSteps(plan, hf, tuple(rounded.values()), formats, parity)


def sound(
    variants: Mapping[str, VariantSteps], entries: Mapping[str, Mapping[str, Any]], *, every: bool
) -> dict[Measured, dict[str, str]]:
    """The keys of the folders to measure, by what is measured and the variant's name; none that failed parity.

    Their figures would mean nothing.
    """
    keys: dict[Measured, dict[str, str]] = {}
    for name, steps in variants.items():
        for measured in steps.every_folder if every else filter(None, [steps.measured]):
            alike = keys.setdefault(measured, {})
            if entries[name]["parity"][measured.folder]["verdict"] != "failed":
                alike[name] = steps.formats[measured.folder].key
    return keys
