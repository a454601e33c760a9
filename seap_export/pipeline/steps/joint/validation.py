"""The validation of an export: the variants are checked as `seap-export validate` does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seap_export.common.json_file import json_text, read_artifact
from seap_export.pipeline.folder.names import parity_file
from seap_export.pipeline.folder.outputs import write_whole
from seap_export.pipeline.gate.request import ValidationRequest
from seap_export.pipeline.gate.validate import validate
from seap_export.pipeline.request.settings import ParitySettings
from seap_export.pipeline.steps.step import Made, Step
from seap_export.pipeline.steps.variant_steps import VariantSteps
from validation.reports import html_page


@dataclass(frozen=True)
class ValidationStep(Step):
    """Completes the export, validates its variants and writes the report next to them.

    Attributes:
        min_accuracy_retained: Least share of the dense model's accuracy; None: no gate.
    """

    variants: Mapping[str, VariantSteps]
    settings: ParitySettings
    min_accuracy_retained: float | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return ("validation",)

    def run(self, made: Made) -> None:
        folder = made.work.folder
        made.workspace.finish()
        made.performance.write(folder)
        known = {
            name: {format: read_artifact(folder / name / parity_file(format)) for format in variant["parity"]}
            for name, variant in made.variants.items()
        }
        request = ValidationRequest(
            tuple(made.variants),
            ("integrity", "parity", "quality", "router"),
            self.settings,
            min_accuracy_retained=self.min_accuracy_retained,
        )
        with made.work.progress.step("validating the variants", name="validation"):
            made.report = validate(folder, request, known_parity=known)
        values = made.report.to_json()
        _write(folder / "validation.json", json_text(values))
        _write(folder / "validation.html", html_page(values))


def _write(path: Path, text: str) -> None:
    if not path.is_file() or path.read_bytes() != text.encode():
        with write_whole(path, force=True) as scratch:
            scratch.write_text(text, "utf-8", newline="\n")
