"""All steps of an export, in the order in which one machine makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from seap_export.corpus import Split
from seap_export.model.sources.source import Source
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.pipeline.request.export_request import ExportRequest
from seap_export.pipeline.steps.joint.card import CardStep
from seap_export.pipeline.steps.joint.checksums import ChecksumStep
from seap_export.pipeline.steps.joint.entries import PlanRemarks, TaskEntry, VariantEntry
from seap_export.pipeline.steps.joint.kept import KeptStep
from seap_export.pipeline.steps.joint.quality import QualityStep
from seap_export.pipeline.steps.joint.router import RouterStep, router_step
from seap_export.pipeline.steps.joint.speed import SpeedStep
from seap_export.pipeline.steps.joint.validation import ValidationStep
from seap_export.pipeline.steps.joint.whole import WholeStep, whole_step
from seap_export.pipeline.steps.single.calibration import CalibrationStep, calibration_steps
from seap_export.pipeline.steps.single.ranking import RankingStep
from seap_export.pipeline.steps.step import PathStep, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps, variant_steps
from seap_export.pipeline.targets.targets import Targets


@dataclass(frozen=True)
class ExportSteps:
    """The steps of an export.

    Attributes:
        router: The step that makes the router; None: none is made.
        whole: The step that makes the whole models that variants are measured beside; None: there are none.
        quality: The step that measures quality; None: it is not measured.
        speed: The step that measures speed; None: it is not measured.
        kept: The step that keeps the whole models that are recommended; None: there are none.
        checksums: The step that writes the lists of checksums.
        targets: The targets that variants were chosen to meet; None: their ratios were given.
    """

    calibrations: Mapping[str, CalibrationStep]
    rankings: Mapping[str, RankingStep]
    variants: Mapping[str, VariantSteps]
    router: RouterStep | None
    whole: WholeStep | None
    quality: QualityStep | None
    speed: SpeedStep | None
    kept: KeptStep | None
    cards: CardStep
    checksums: ChecksumStep
    validation: ValidationStep
    targets: Targets | None

    @property
    def calibration_keys(self) -> dict[str, str]:
        """The key of each task's statistics, by the name of the task."""
        return {task: step.key for task, step in self.calibrations.items()}

    @property
    def of_tasks(self) -> tuple[PathStep, ...]:
        """The steps of tasks and mixtures, which serve all variants, in order."""
        fresh = {step.name: step for ranking in self.rankings.values() for step in ranking.fresh}
        return *self.calibrations.values(), *fresh.values(), *self.rankings.values()

    @property
    def paths(self) -> tuple[PathStep, ...]:
        """The steps that make a path each, which a cluster can make."""
        return tuple(step for step in self.all if isinstance(step, PathStep))

    @property
    def all(self) -> tuple[Step, ...]:
        """All steps in order: a ranking before the first variant that needs it, and steps over all variants last."""
        before = self.router, self.whole, self.quality, self.speed, self.kept
        joint = *before, self.cards, self.checksums, self.validation
        return *self._up_to_variants(), *(step for step in joint if step is not None)

    def _up_to_variants(self) -> Iterator[Step]:
        seen = set[str]()
        for calibration in self.calibrations.values():
            yield from (calibration, TaskEntry(calibration))
        for variant in self.variants.values():
            for shared in (variant.plan.ranking, *variant.hf.fresh):
                if shared.name not in seen:
                    seen.add(shared.name)
                    yield shared
            yield from (variant.plan, PlanRemarks(variant), *variant.all[1:], VariantEntry(variant, self.targets))


def export_steps(
    source: Source,
    request: ExportRequest,
    splits: Mapping[str, Split],
    vocabularies: Mapping[str, Vocabulary] = MappingProxyType({}),
) -> ExportSteps:
    """The steps of a request.

    Args:
        vocabularies: The tokens that the variants of a mixture keep, by its name; of others, all are kept.
    """
    calibrations = calibration_steps(source, splits, request.calibration)
    rankings = {
        mixture.name: RankingStep(mixture, request.plan, tuple(calibrations[task] for task in mixture.weights))
        for mixture in request.all_mixtures
    }
    variants = {
        name: variant_steps(
            source.spec,
            request,
            rankings[variant.mixture.name],
            variant.ratio,
            variant.folders,
            None if variant.vocabulary == "all" else vocabularies.get(variant.mixture.name),
            learns=True,
        )
        for name, variant in request.variants.items()
    }
    questions = tuple(task for task in request.tasks if task.says_what_is_right)
    tasks, parity, whole = tuple(calibrations), request.parity, whole_step(source, request, rankings)
    return ExportSteps(
        calibrations,
        rankings,
        variants,
        router_step(request, splits),
        whole,
        QualityStep(variants, tasks, parity, request.general_text, whole, questions) if request.quality else None,
        SpeedStep(variants, parity, whole, request.timed_prompts) if request.speed else None,
        None if whole is None else KeptStep(variants, whole, request.min_accuracy_retained),
        CardStep(variants, request),
        ChecksumStep(),
        ValidationStep(variants, parity, request.min_accuracy_retained),
        request.targets,
    )
