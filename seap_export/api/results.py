"""What the functions of the API return: what was made and checked, and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seap_export.api.variant import Variant

if TYPE_CHECKING:
    from seap_export.pipeline.folder.performance import StepFigures
    from seap_export.pipeline.gate.report import Check, ValidationReport

__all__ = ["ConvertedModel", "ExportResult", "PrunedModel", "ValidationResult"]


@dataclass(frozen=True)
class PrunedModel:
    """What `prune` wrote.

    Attributes:
        path: The model folder.
        num_parameters: Its parameters.
    """

    path: Path
    num_parameters: int


@dataclass(frozen=True)
class ConvertedModel:
    """What `convert` wrote.

    Attributes:
        path: The folder.
        bytes: The size of its files.
    """

    path: Path
    bytes: int


@dataclass(frozen=True)
class ValidationResult:
    """What `validate` found.

    Attributes:
        path: The output folder or the variant that was checked.
        variants: The variants by name, with their figures.
        report: All that the JSON report says.
    """

    path: Path
    variants: Mapping[str, Variant]
    report: ValidationReport = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return self.report.passed

    @property
    def failure(self) -> str:
        """What failed, in one line; "" if nothing did."""
        return self.report.failure

    @property
    def checks(self) -> tuple[Check, ...]:
        """Each check with its `variant`, `check`, `verdict`, `reasons` and `notes`."""
        return self.report.checks


@dataclass(frozen=True)
class ExportResult(ValidationResult):
    """What `export` made, and whether it passed the checks.

    Attributes:
        path: The output folder.
        variants: The variants that were asked for by name, with their figures.
        report: All that validation.json says.
        steps: The seconds and the peak memory of each step that was made now.
        entries: What the manifest says of the variants.
        frontier: The candidates that targets were met with, as in frontier.json; None: there were no targets.
    """

    steps: Mapping[str, StepFigures] = field(repr=False)
    entries: Mapping[str, Any] = field(repr=False)
    frontier: Mapping[str, Any] | None = field(repr=False)
