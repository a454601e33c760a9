"""The check of quality: how far a variant is from the dense model, and how many answers it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seap_export.errors import ArtifactError
from seap_export.pipeline.evaluation.evaluate import evaluate
from seap_export.pipeline.evaluation.verdicts import QualityVerdict, retained
from seap_export.pipeline.folder.contents import Variant
from seap_export.pipeline.folder.names import HF
from seap_export.pipeline.gate.comparison import pairs_of
from seap_export.pipeline.gate.report import Check
from seap_export.pipeline.gate.request import ValidationRequest
from seap_export.pipeline.progress import Progress
from validation.runtimes.table import REFERENCE

#: What a report of an evaluation says of answers to questions, and the subject of a check of these.
_ANSWERED = (
    "zero_shot",
    "generation",
    "flipped",
    *(f"accuracy_{what}" for what in ("retained", "retained_stderr", "difference")),
)
ACCURACY_OF = "the answers of "


def quality_checks(
    variant: Variant, request: ValidationRequest, recorded: Mapping[str, Any], progress: Progress
) -> tuple[list[Check], dict[str, Any] | None]:
    """Compares the folders of a variant with the dense model."""
    assert request.quality is not None
    progress.say(f"{variant.name}: comparing with the dense model")
    # the folders of parity, or else the model folder
    judged = [(folder.name, runtime) for folder, runtime in pairs_of(variant, request.runtimes)]
    judged = judged if variant.formats else [(HF, REFERENCE)]
    why = "it was not judged: --runtime leaves it out"
    left_out = [folder.name for folder in variant.formats if folder.name not in dict(judged)]
    checks = [Check(variant.name, "quality", "skipped", notes=(why,), subject=name) for name in left_out]
    if not judged:
        return checks, None
    try:
        settings = request.quality.of_folders(judged)
        report = evaluate(str(variant.path), request.dense, settings, progress, request.compute)
    except ArtifactError as error:
        return [*checks, Check.of(variant.name, "quality", [str(error)], ArtifactError.exit_code)], None
    forms = list(dict.fromkeys(verdict.form for verdict in report.verdicts))
    for form, of_form in _by_form(report.verdicts):
        subject = form if len(forms) > 1 else None
        checks.append(_judged(variant, of_form, subject, report.remarks))
    return checks, report.to_json() | {key: recorded[key] for key in _ANSWERED if recorded.get(key)}


def accuracy_checks(variant: Variant, recorded: Mapping[str, Any], least: float) -> list[Check]:
    """Judges the accuracy that the export measured."""
    errors = recorded.get("accuracy_retained_stderr", {})
    verdicts = [
        QualityVerdict(form, task, "accuracy", retained(share, errors[form][task], recorded, task), least)
        for form, by_task in recorded.get("accuracy_retained", {}).items()
        for task, share in by_task.items()
    ]
    if not verdicts:
        why = "no accuracy was measured: no task file says what is right"
        return [Check(variant.name, "quality", "skipped", notes=(why,), subject="accuracy")]
    return [_judged(variant, of_form, f"{ACCURACY_OF}{form}") for form, of_form in _by_form(verdicts)]


def _by_form(verdicts: Sequence[QualityVerdict]) -> Iterator[tuple[str, list[QualityVerdict]]]:
    for form in dict.fromkeys(verdict.form for verdict in verdicts):
        yield form, [verdict for verdict in verdicts if verdict.form == form]


def _judged(
    variant: Variant, verdicts: Sequence[QualityVerdict], subject: str | None, remarks: Sequence[str] = ()
) -> Check:
    reasons = [verdict.result for verdict in verdicts if not verdict.passed]
    close = [verdict.result for verdict in verdicts if verdict.passed and verdict.close]
    return Check.of(variant.name, "quality", reasons, 4, (*close, *remarks), subject)
