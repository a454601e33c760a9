"""The results that the functions of the API return."""

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
    """The model folder that `prune` wrote.

    Attributes:
        path: The model folder.
        num_parameters: The number of parameters of the model.
    """

    path: Path
    num_parameters: int


@dataclass(frozen=True)
class ConvertedModel:
    """The folder that `convert` wrote.

    Attributes:
        path: The folder.
        bytes: The total size of its files in bytes.
    """

    path: Path
    bytes: int


@dataclass(frozen=True)
class ValidationResult:
    """The verdicts and figures that `validate` found.

    Attributes:
        path: The output folder or the variant that was checked.
        variants: The variants by name, with their figures.
        report: The whole report, as the JSON file has it.
    """

    path: Path
    variants: Mapping[str, Variant]
    report: ValidationReport = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return self.report.passed

    @property
    def failure(self) -> str:
        """The first failed check, and how many others failed, in one line; "" if none did."""
        return self.report.failure

    @property
    def checks(self) -> tuple[Check, ...]:
        """Each check with its `variant`, `check`, `verdict`, `reasons` and `notes`."""
        return self.report.checks


@dataclass(frozen=True)
class ExportResult:
    """The variants that `export` made and the verdicts on them, or the plan of a dry run.

    Attributes:
        path: The output folder.
        variants: The variants that were asked for by name, with their figures; none in a dry run.
        report: The whole report, as validation.json has it; None in a dry run.
        steps: The seconds and the peak memory of each step that this run made.
        entries: The manifest's entries of the variants, by name.
        commands: For each whole model that was measured beside the variants, the command that makes it, by name.
        frontier: The candidates that targets were met with, as in frontier.json; None: there were no targets.
        planned: The plan of a dry run: `variants` or first `candidates`, the `disk` space in bytes, and the
            `seconds` of the main work; None: it was none.
    """

    path: Path
    variants: Mapping[str, Variant] = field(default_factory=dict)
    report: ValidationReport | None = field(default=None, repr=False)
    steps: Mapping[str, StepFigures] = field(default_factory=dict, repr=False)
    entries: Mapping[str, Any] = field(default_factory=dict, repr=False)
    commands: Mapping[str, str] = field(default_factory=dict, repr=False)
    frontier: Mapping[str, Any] | None = field(default=None, repr=False)
    planned: Preview | None = None

    def __post_init__(self) -> None:
        if (self.report is None) != (self.planned is not None):
            raise ValueError("an export is either planned or made and checked")

    @property
    def described(self) -> Mapping[str, Mapping[str, Any]]:
        """The validation report's description of each variant, by name; empty in a dry run."""
        return {} if self.report is None else self.report.variants

    @property
    def whole(self) -> Mapping[str, Mapping[str, Any]]:
        """The whole model in int8 and int4 as it was measured beside the variants, by name, or why it was not."""
        return {} if self.report is None else self.report.whole

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """The recommendation for each task and mixture: its `file`, `words` (sentences), and all compared `files`;
        empty in a dry run."""
        return {} if self.report is None else self.report.recommended

    @property
    def passed(self) -> bool:
        """Whether no check failed; True in a dry run."""
        return self.report is None or self.report.passed

    @property
    def failure(self) -> str:
        """The first failed check, and how many others failed, in one line; "" if none did."""
        return "" if self.report is None else self.report.failure

    @property
    def checks(self) -> tuple[Check, ...]:
        """Each check with its `variant`, `check`, `verdict`, `reasons` and `notes`."""
        return () if self.report is None else self.report.checks
