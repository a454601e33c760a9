"""The quality of variants: each is compared with the dense model on held-out texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from seap_export.pipeline.cost.cost import Cost, Disk, Rates
from seap_export.pipeline.cost.workload import KeptPart, TokenCounts
from seap_export.pipeline.evaluation.quality import (
    DENSE_TEXTS,
    measure_quality,
    quality_request,
    settled_quality,
)
from seap_export.pipeline.folder.names import QUALITY
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.joint import JointStep, MadeVariants
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.step import Step
from seap_export.pipeline.steps.variant_steps import VariantSteps
from seap_export.pipeline.texts.general_text import GENERAL_TEXT

__all__ = ["QualityStep"]


def _seconds(model: KeptPart, tokens: TokenCounts, rates: Rates) -> float:
    vocabulary = 8 * 4 * model.work.spec.vocab_size  # passes over the logits to compare them
    return tokens.held_out_tokens * ((model.linear + model.head) / rates.operations + vocabulary / rates.memory_bytes)


def _disk(model: KeptPart, tokens: TokenCounts) -> Disk:
    """The dense model's logits of all held-out texts, in float32."""
    return Disk(temporary=4 * model.work.spec.vocab_size * tokens.held_out_tokens + model.dense_folder_bytes)


@dataclass(frozen=True)
class QualityStep(JointStep):
    """Writes quality.json for each variant that passed parity.

    Attributes:
        variants: The variants' own steps, by name.
        tasks: All tasks.
        settings: The machine's part of them.
        general_text: The corpus of the general text; None: the one that comes with the package.
    """

    cost = Cost("quality", _seconds, effort=3.0, always=2.0, count_disk=_disk)

    variants: Mapping[str, VariantSteps]
    tasks: tuple[str, ...]
    settings: ParitySettings
    general_text: Path | None

    @property
    def names(self) -> tuple[str, ...]:
        return DENSE_TEXTS, *(f"{name}/{QUALITY}" for name in self.variants)

    def planned_work(self, variant: VariantSteps, folder: Path, missing: Collection[Step]) -> list[PlannedWork]:
        if (folder / variant.plan.variant / QUALITY).exists():
            return []
        others = (*(task for task in self.tasks if task not in variant.plan.tasks), GENERAL_TEXT)
        return [variant.planned_work(self.cost, others)]

    def make(self, made: MadeVariants) -> None:
        """Runs the dense model once, if anything is missing, and then each variant."""
        for measured, keys in made.sound(self.variants).items():
            request = quality_request(measured, self.settings, self.general_text)
            work = made.work
            measure_quality(work.source, made.dense, keys, request, made.workspace, work.compute, work.progress)
        for name, variant in made.variants.items():
            variant["quality"] = settled_quality(made.workspace, name)
            made.workspace.manifest.variants[name] = variant  # which a new report has taken off the list
