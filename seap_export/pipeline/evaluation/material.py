"""The texts and questions of an evaluation, none of which was used in calibration."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from seap_export.corpus import Task
from seap_export.errors import ArtifactError, InputError
from seap_export.pipeline.evaluation.request import EvaluationRequest
from seap_export.pipeline.evaluation.subject import Subject
from seap_export.pipeline.texts.chat import ModelChat
from validation.generation import OpenTask, open_task
from validation.zero_shot import Question, read_questions


@dataclass(frozen=True)
class Texts:
    """The texts for measuring divergence."""

    origin: Literal["held-out", "file"]
    tasks: tuple[str, ...]
    texts: tuple[str, ...]
    seeds: tuple[int, ...]
    disjoint: bool | None

    def __post_init__(self) -> None:
        if not self.texts or len(set(self.texts)) != len(self.texts):
            raise ValueError("a divergence needs distinct texts")


def chosen_texts(subject: Subject, request: EvaluationRequest) -> Texts | None:
    """Chooses the texts for the divergence; None without a dense model to compare with."""
    if subject.variant is None or subject.dense is None:
        return None
    if request.texts:
        samples = {task.name: _texts_of(task, request.limit, subject.chat(request)) for task in request.texts}
        disjoint = {subject.is_disjoint(f"task '{name}'", of_task.items()) for name, of_task in samples.items()}
        by_task = [tuple(of_task) for of_task in samples.values()]
        return Texts("file", tuple(samples), _distinct(by_task), (), None if None in disjoint else True)
    if subject.records is None:
        raise ArtifactError(
            f"{subject.variant.path}: the held-out texts of its export are missing; give texts with --text NAME=FILE"
        )
    records = [record for record in subject.records if record.held_out]  # none of the support is
    held_out = [
        [sample["prompt"] + sample["completion"] for sample in record.held_out[: request.limit]] for record in records
    ]
    texts = _distinct(held_out)
    if not texts:
        raise ArtifactError(f"{subject.variant.path}: no texts were held out; give texts with --text NAME=FILE")
    return Texts(
        origin="held-out",
        tasks=tuple(record.task for record in records),
        texts=texts,
        seeds=tuple(record.seed for record in records),
        disjoint=subject.is_disjoint("held-out texts", ((text, "") for text in texts)),
    )


def _texts_of(task: Task, limit: int | None, chat: ModelChat) -> dict[str, str]:
    texts: dict[str, str] = {}
    for sample in task.texts(chat):
        if len(texts) == limit:
            break
        texts[sample.text] = sample.prompt
    if not texts:
        raise InputError(f"task '{task.name}': {task.corpus} contains no text; use another corpus")
    return texts


def _distinct(texts: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(texts)))


def local_questions(
    subject: Subject, request: EvaluationRequest
) -> dict[str, tuple[tuple[Question, ...], bool | None]]:
    """The questions of each task file, and whether they are disjoint from calibration (None: could not be checked)."""
    questions = {task.name: read_questions(task, request.limit, subject.chat(request)) for task in request.zero_shot}
    return {
        name: (
            of_task,
            subject.is_disjoint(f"task '{name}'", ((question.text, question.prompt) for question in of_task)),
        )
        for name, of_task in questions.items()
    }


def open_tasks(subject: Subject, request: EvaluationRequest) -> dict[str, tuple[OpenTask, bool | None]]:
    """The tasks whose answers are generated, and whether they are disjoint from calibration (None: unknown)."""
    tasks = [open_task(task, request.limit, subject.chat(request)) for task in request.generate]
    return {
        task.name: (
            task,
            subject.is_disjoint(
                f"task '{task.name}'", ((question.text, question.prompt) for question in task.questions)
            ),
        )
        for task in tasks
    }
