"""All steps of an export, in the order in which one machine makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from converters.format import Format
from seap_export.corpus import Split
from seap_export.families import ModelSpec
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.calibration import CalibrationStep, calibration_steps
from seap_export.pipeline.steps.formats import FormatStep, ParityStep, format_step
from seap_export.pipeline.steps.ranking import RankingStep
from seap_export.pipeline.steps.rounding import RoundingStep
from seap_export.pipeline.steps.step import Step
from seap_export.pipeline.steps.variant import PlanStep, ShrinkStep
from seap_export.sources.source import Source
from seap_export.vocabulary.table import Vocabulary

__all__ = ["ExportSteps", "VariantSteps", "export_steps", "variant_steps"]


@dataclass(frozen=True)
class VariantSteps:
    """The steps of a variant alone.

    Attributes:
        plan: What it keeps.
        hf: The model folder.
        rounded: The model on the grids of the formats.
        written: The other formats, by folder.
        parity: The comparison of each of these, by folder.
    """

    plan: PlanStep
    hf: ShrinkStep
    rounded: tuple[RoundingStep, ...]
    written: Mapping[str, FormatStep]
    parity: Mapping[str, ParityStep]

    @property
    def all(self) -> tuple[Step, ...]:
        """In order: each format is compared before the next is written."""
        pairs = zip(self.written.values(), self.parity.values(), strict=True)
        return self.plan, self.hf, *self.rounded, *(step for pair in pairs for step in pair)


@dataclass(frozen=True)
class ExportSteps:
    """The steps of an export.

    Attributes:
        calibrations: By task.
        rankings: By task or mixture.
        variants: By the variant's name.
    """

    calibrations: Mapping[str, CalibrationStep]
    rankings: Mapping[str, RankingStep]
    variants: Mapping[str, VariantSteps]

    @property
    def all(self) -> tuple[Step, ...]:
        """In order: a ranking comes before the first variant that needs it."""
        found: dict[str, Step] = dict(self.calibrations)
        for own in self.variants.values():
            for step in (own.plan.ranking, *own.all):
                found.setdefault(step.name, step)
        return tuple(found.values())


def export_steps(
    source: Source,
    request: ExportRequest,
    splits: Mapping[str, Split],
    vocabularies: Mapping[str, Vocabulary] = MappingProxyType({}),
) -> ExportSteps:
    """The steps of a request.

    Args:
        source: The dense model.
        request: What to make.
        splits: The texts of each task.
        vocabularies: The tokens that the variants of a mixture keep, by its name; of others, all are kept.
    """
    calibrations = calibration_steps(source, splits, request.calibration)
    rankings = {
        own.name: RankingStep(own, request.plan, tuple(calibrations[task] for task in own.weights))
        for own in request.all_mixtures
    }
    variants = {
        name: variant_steps(
            source.spec,
            request,
            rankings[own.mixture.name],
            own.ratio,
            own.folders,
            None if own.vocabulary == "all" else vocabularies.get(own.mixture.name),
        )
        for name, own in request.variants.items()
    }
    return ExportSteps(calibrations, rankings, variants)


def variant_steps(
    dense: ModelSpec,
    request: ExportRequest,
    ranking: RankingStep,
    ratio: float,
    folders: Mapping[str, Format],
    vocabulary: Vocabulary | None = None,
) -> VariantSteps:
    """The steps of one variant.

    Args:
        dense: The dense model.
        request: How formats are rounded and compared.
        ranking: That of the variant's task or mixture.
        ratio: Fraction to remove.
        folders: What is written beside the model folder, by the names of the folders.
        vocabulary: The tokens that are kept; None: all.
    """
    plan = PlanStep(ranking, ratio, vocabulary)
    hf = ShrinkStep(plan)
    written = {folder: format_step(hf, folder, own, request.grid(own, dense)) for folder, own in folders.items()}
    before = (step.before for step in written.values())
    rounded = {step.name: step for step in before if isinstance(step, RoundingStep)}
    parity = {folder: ParityStep(step, request.parity) for folder, step in written.items()}
    return VariantSteps(plan, hf, tuple(rounded.values()), written, parity)
