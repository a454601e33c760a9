"""Steps over all variants of an export at once, which follow the variants' own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.pipeline.folder.performance import Performance
from seap_export.pipeline.folder.workspace import Workspace
from seap_export.pipeline.gate.report import ValidationReport
from seap_export.pipeline.request.measured import Measured
from seap_export.pipeline.steps.planned_work import PlannedWork
from seap_export.pipeline.steps.step import Step, Work
from seap_export.pipeline.steps.variant_steps import VariantSteps


@dataclass
class MadeVariants:
    """The variants of an export, and what the steps over them share.

    Attributes:
        work: The model, the output folder and the machine.
        workspace: The output folder, locked.
        performance: Receives speeds.
        dense: The dense model as a folder that transformers loads. The first call takes time and disk space if the
            model is of another form.
        variants: Each as the manifest describes it, which steps complete.
        report: The validation's, once it has run.
    """

    work: Work
    workspace: Workspace
    performance: Performance
    dense: Callable[[], Path]
    variants: dict[str, dict[str, Any]]
    report: ValidationReport | None = None

    def sound(self, variants: Mapping[str, VariantSteps]) -> dict[Measured, dict[str, str]]:
        """What is measured: keys of folders by the variants' names, without those that failed parity.

        Their figures would mean nothing.
        """
        keys: dict[Measured, dict[str, str]] = {}
        for name, steps in variants.items():
            if (measured := steps.measured) is not None:
                alike = keys.setdefault(measured, {})
                if self.variants[name]["parity"][measured.folder]["verdict"] == "passed":
                    alike[name] = steps.formats[measured.folder].key
        return keys


class JointStep(ABC):
    """Made of all variants of a run, in the process that writes the folder; what is there already stays."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Under which it counts among the steps of a run and in performance.json."""

    def planned_work(self, variant: VariantSteps, folder: Path, missing: Collection[Step]) -> list[PlannedWork]:
        """What is to be done for a variant.

        Args:
            variant: One of the run's.
            folder: The output folder.
            missing: Steps of variants that are not made yet.
        """
        return []

    @abstractmethod
    def make(self, made: MadeVariants) -> None:
        """Makes what is missing."""
