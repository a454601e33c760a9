"""What is evaluated, on which texts and questions, and that none of them was calibrated on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from seap_export.activations.statistics import CalibrationRecord
from seap_export.corpus import Task, check_disjoint, text_digest
from seap_export.errors import ArtifactError, InputError, UsageError
from seap_export.pipeline.evaluation_request import EvaluationRequest
from seap_export.pipeline.manifest import MANIFEST
from seap_export.pipeline.origin import refuse_another_model
from seap_export.pipeline.parity import calibrations_of
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.settings import calibration_step
from seap_export.plan.plan import Plan, read_plan
from seap_export.sources.source import Source, open_source
from validation.quality import Form
from validation.zero_shot import Question, read_questions

__all__ = ["Subject", "Texts", "chosen_texts", "local_questions", "open_subject", "variant_subject"]


@dataclass(frozen=True)
class Subject:
    """A variant and its dense model, or a dense model alone.

    Attributes:
        name: Name of the variant's folder, or of the model.
        variant: The variant's folder; None: a dense model is evaluated.
        plan: The variant's plan.
        records: What the variant was calibrated on; None: not known, or nothing.
        dense: The dense model; None: the variant is not compared with any.
    """

    name: str
    variant: Path | None
    plan: Plan | None
    records: tuple[CalibrationRecord, ...] | None
    dense: Source | None

    def __post_init__(self) -> None:
        if (self.variant is None) != (self.plan is None):
            raise ValueError("a variant has a plan")
        if self.variant is None and self.dense is None:
            raise ValueError("there is nothing to evaluate")

    def artifact(self, form: Form) -> Path:
        """The variant's folder of that form."""
        if self.variant is None:
            raise ValueError("a dense model has no artifacts")
        return self.variant / form

    def is_disjoint(self, what: str, texts: Iterable[str]) -> bool | None:
        """True if no text was calibrated on, None where nobody can tell.

        Raises:
            InputError: Some were.
        """
        if self.records is None:
            return None
        calibrated = {digest for record in self.records for digest in record.calibration_texts}
        try:
            check_disjoint(calibrated, map(text_digest, texts))
        except InputError as error:
            raise InputError(f"{what}: {error}") from error
        return True


@dataclass(frozen=True)
class Texts:
    """The texts that divergence is measured on.

    Attributes:
        origin: `held-out`, of the variant's tasks, or `file`.
        tasks: Names of their tasks.
        texts: Prompt and completion of each, no text twice.
        seeds: Seeds of the splits that held them out, one a task; empty for texts of files.
        disjoint: True: none was calibrated on; None: that could not be checked.
    """

    origin: Literal["held-out", "file"]
    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    disjoint: bool | None

    def __post_init__(self) -> None:
        if not self.texts or len(set(self.texts)) != len(self.texts):
            raise ValueError("a divergence needs texts, each once")


def open_subject(path: str, dense: str | None, request: EvaluationRequest, progress: Progress) -> Subject:
    """Finds what is at a path, and what the request needs of it.

    Raises:
        UsageError: The request does not fit what is there.
        ArtifactError: A part of the variant is missing or damaged.
        InputError: There is no model, or the variant was made from another one.
        EnvironmentFailure: A hub model cannot be downloaded.
    """
    place = Path(os.path.expanduser(path))
    if (place / MANIFEST).is_file():
        raise UsageError(f"{path} holds several variants; give one of them, such as {path}/TASK-0.2")
    if (place.parent / "plan.json").is_file() and place.is_dir():
        raise UsageError(f"{path} is a part of a variant; give the variant's folder, {place.parent}")
    if not (place / "plan.json").is_file() and not any((place / form).is_dir() for form in request.forms):
        return _dense_alone(path, dense, request)
    for part in ("plan.json", *request.forms):
        if not (place / part).exists():
            raise ArtifactError(f"{path}: {part} is missing; export the variant again")
    _refuse_useless(dense, request)
    return variant_subject(place, None if dense is None else _dense_of(place, dense, progress))


def variant_subject(folder: Path, dense: Source | None) -> Subject:
    """A variant's folder, and the dense model that it was made from.

    Raises:
        ArtifactError: The plan or the statistics are damaged.
    """
    plan = read_plan(folder / "plan.json")
    return Subject(folder.resolve().name, folder, plan, _records(folder, plan), dense)


def _dense_alone(path: str, dense: str | None, request: EvaluationRequest) -> Subject:
    if dense is not None or request.texts or request.max_kl is not None or request.min_accuracy_retained is not None:
        raise UsageError(
            f"{path} is no variant: there is nothing to compare; give a variant's folder, such as OUT/TASK-0.2"
        )
    if request.forms != ("hf",):
        raise UsageError(f"--form chooses an artifact of a variant, and {path} is none; leave it out")
    source = open_source(path)
    if not request.asks_questions:
        raise UsageError(
            "a dense model has zero-shot accuracy only; give --zero-shot NAME=FILE or --harness-task NAME"
        )
    return Subject(source.name, None, None, None, source)


def _refuse_useless(dense: str | None, request: EvaluationRequest) -> None:
    if dense is not None:
        return
    if not request.asks_questions:
        raise UsageError("nothing to evaluate; give --dense MODEL for the divergence, or a zero-shot task")
    if request.texts or request.max_kl is not None or request.min_accuracy_retained is not None:
        raise UsageError(
            "--text, --max-kl and --min-accuracy-retained compare with the dense model; give --dense MODEL"
        )


def _records(variant: Path, plan: Plan) -> tuple[CalibrationRecord, ...] | None:
    """What the variant's tasks were calibrated on; None where an export's statistics are not beside it."""
    beside = variant.absolute().parent
    if not all((beside / calibration_step(task)).is_dir() for task in plan.weights):
        return None
    return tuple(calibration.record for calibration in calibrations_of(variant))


def _dense_of(variant: Path, dense: str, progress: Progress) -> Source:
    source = open_source(dense)
    progress.say(f"hashing {source.name}")
    refuse_another_model(source, read_plan(variant / "plan.json"), "the variant")
    return source


def chosen_texts(subject: Subject, request: EvaluationRequest) -> Texts | None:
    """The texts for the divergence; None where a model is not compared with another.

    Raises:
        ArtifactError: The variant's held-out texts are not beside it, and no others were given.
        InputError: A corpus cannot be read, or a text was calibrated on.
    """
    if subject.variant is None or subject.dense is None:
        return None
    if request.texts:
        by_task = {task.name: _texts_of(task, request.limit) for task in request.texts}
        disjoint = {subject.is_disjoint(f"task '{name}'", texts) for name, texts in by_task.items()}
        return Texts("file", tuple(by_task), _distinct(by_task.values()), (), None if None in disjoint else True)
    if subject.records is None:
        raise ArtifactError(
            f"{subject.variant}: its held-out texts are not beside it; give texts with --text NAME=FILE"
        )
    held_out = [
        [sample["prompt"] + sample["completion"] for sample in record.held_out[: request.limit]]
        for record in subject.records
    ]
    texts = _distinct(held_out)
    if not texts:
        raise ArtifactError(f"{subject.variant}: no text was held out; give texts with --text NAME=FILE")
    return Texts(
        origin="held-out",
        tasks=tuple(record.task for record in subject.records),
        texts=texts,
        seeds=tuple(record.seed for record in subject.records),
        disjoint=subject.is_disjoint("held-out texts", texts),
    )


def _texts_of(task: Task, limit: int | None) -> list[str]:
    texts = list(islice(dict.fromkeys(sample.text for sample in task.texts()), limit))
    if not texts:
        raise InputError(f"task '{task.name}': {task.corpus} holds no text")
    return texts


def _distinct(texts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for own in texts for text in own))


def local_questions(
    subject: Subject, request: EvaluationRequest
) -> dict[str, tuple[tuple[Question, ...], bool | None]]:
    """The questions of each task file, and whether none of them was calibrated on (None: could not be checked).

    Raises:
        InputError: A task file or its corpus cannot be used, or a question was calibrated on.
    """
    questions = {task.name: read_questions(task, request.limit) for task in request.zero_shot}
    return {
        name: (own, subject.is_disjoint(f"task '{name}'", (question.text for question in own)))
        for name, own in questions.items()
    }
