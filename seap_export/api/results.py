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
    from seap_export.pipeline.preview import Preview


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
class ExportResult:
    """What `export` made, and whether it passed the checks; or what it would make.

    Attributes:
        path: The output folder.
        variants: The variants that were asked for by name, with their figures; none in a dry run.
        report: All that validation.json says; None in a dry run.
        steps: The seconds and the peak memory of each step that was made now.
        entries: What the manifest says of the variants.
        frontier: The candidates that targets were met with, as in frontier.json; None: there were no targets.
        planned: What a dry run found: `variants` or first `candidates`, `seconds` by kind of step, and the `disk`
            space in bytes; None: it was none.
    """

    path: Path
    variants: Mapping[str, Variant] = field(default_factory=dict)
    report: ValidationReport | None = field(default=None, repr=False)
    steps: Mapping[str, StepFigures] = field(default_factory=dict, repr=False)
    entries: Mapping[str, Any] = field(default_factory=dict, repr=False)
    frontier: Mapping[str, Any] | None = field(default=None, repr=False)
    planned: Preview | None = None

    def __post_init__(self) -> None:
        if (self.report is None) != (self.planned is not None):
            raise ValueError("an export is either planned or made and checked")

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """What the report says of each variant."""
        return {} if self.report is None else self.report.variants

    @property
    def passed(self) -> bool:
        """Whether nothing failed; in a dry run, True."""
        return self.report is None or self.report.passed

    @property
    def failure(self) -> str:
        """What failed, in one line; "" if nothing did."""
        return "" if self.report is None else self.report.failure

    @property
    def checks(self) -> tuple[Check, ...]:
        """Each check with its `variant`, `check`, `verdict`, `reasons` and `notes`."""
        return () if self.report is None else self.report.checks
