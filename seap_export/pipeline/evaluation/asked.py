"""The held-out questions of tasks that say what is right, and how models answer them in an export."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from seap_export.common.hashing import sha256_json
from seap_export.corpus import Chat, Split, Task
from seap_export.corpus.harness import require_harness
from seap_export.errors import EnvironmentFailure, InputError
from seap_export.model.sources.source import Source
from seap_export.pipeline.progress import Progress
from seap_export.pipeline.texts.chat import chat_of_source
from validation.execution import Execution
from validation.generation import GenerationFigures, OpenTask, evaluate_generation, open_task
from validation.runtimes.table import REFERENCE
from validation.zero_shot import Question, ZeroShotFigures, evaluate_zero_shot, local_task, read_questions


@dataclass(frozen=True)
class Scores:
    """The answers of one model, by task.

    Attributes:
        zero_shot: Of questions with choices.
        generation: Of questions that it answers in its own words.
    """

    zero_shot: Mapping[str, ZeroShotFigures]
    generation: Mapping[str, GenerationFigures]


#: The right answers that a model which has not learnt a task is shown before each question, and their characters.
SHOWN, _MOST_SHOWN = 10, 4000


@dataclass(frozen=True)
class Asked:
    """The held-out questions of some tasks.

    Attributes:
        choices: Questions with choices, by task.
        shown: What models that have not learnt a task are shown before its questions, by task.
    """

    choices: Mapping[str, tuple[Question, ...]]
    open: tuple[OpenTask, ...]
    shown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.choices or self.open)

    @cached_property
    def digest(self) -> str:
        """A hash of all questions; "" if there are none."""
        questions = {name: [vars(question) for question in of_task] for name, of_task in self.choices.items()}
        shown = [{name: list(texts) for name, texts in self.shown.items()}] if self.shown else []
        return sha256_json([questions, [task.sha256 for task in self.open], *shown]) if self else ""

    def answered(
        self,
        folder: Path,
        execution: Execution,
        *,
        has_learnt: bool,
        runtime: str = REFERENCE,
        tokenizer_folder: Path | None = None,
    ) -> Scores:
        """Lets a model answer them; see `evaluate_zero_shot` and `evaluate_generation`."""
        options: Any = {"runtime": runtime, "execution": execution, "tokenizer_folder": tokenizer_folder}
        tasks = [local_task(name, questions) for name, questions in self.choices.items()]
        shown = {} if has_learnt else self.shown
        asked = [replace(task, examples=shown.get(task.name, task.examples)) for task in self.open]
        generation = evaluate_generation(folder, asked, **options) if asked else {}
        return Scores(
            evaluate_zero_shot(folder, tasks, **options) if tasks else {},
            {task.name: replace(generation[task.name], sha256=task.sha256) for task in self.open},
        )


def held_out_questions(tasks: Iterable[Task], splits: Mapping[str, Split], chat: Chat) -> Asked:
    choices, answered, shown = dict[str, tuple[Question, ...]](), list[OpenTask](), dict[str, tuple[str, ...]]()
    for task in (task for task in tasks if task.says_what_is_right):
        texts = {sample.text for sample in splits[task.name].held_out}
        prompts = {sample.prompt for sample in splits[task.name].held_out if sample.prompt}
        if task.answer is not None:
            whole = open_task(task, chat=chat)
            kept = tuple(question for question in whole.questions if question.prompt in prompts)
            if kept:
                answered.append(OpenTask(task.name, whole.rule, kept, whole.examples))
                if splits[task.name].is_learnt:
                    shown[task.name] = _shown(splits[task.name])
        else:
            of_task = tuple(question for question in read_questions(task, chat=chat) if question.text in texts)
            choices |= {task.name: of_task} if of_task else {}
    return Asked(choices, tuple(answered), shown)


def _shown(split: Split) -> tuple[str, ...]:
    """Some calibration texts that have a right answer; the same ones, whatever their order."""
    answered = sorted(sample.text.strip() for sample in split.calibration if sample.prompt and sample.completion)
    chance, texts, size = random.Random(0), list[str](), 0
    for text in chance.sample(answered, len(answered)):
        size += len(text)
        if len(texts) == SHOWN or (size > _MOST_SHOWN and texts):
            break
        texts.append(text)
    return tuple(texts)


def questions_to_ask(tasks: Iterable[Task], splits: Mapping[str, Split], source: Source, progress: Progress) -> Asked:
    """The questions of an export, as in `held_out_questions`; none, which is said, if they cannot be read or asked."""
    try:
        asked = held_out_questions(tasks, splits, chat_of_source(source))
        if asked.choices:
            require_harness()
    except (InputError, EnvironmentFailure) as error:
        progress.warn(f"accuracy is not measured: {error}")
        return Asked({}, ())
    return asked
