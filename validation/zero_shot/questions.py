"""Multiple-choice questions from local files: the task files that calibration reads, with all their choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from seap_export.corpus import ChoiceCompletion, Task, render
from seap_export.errors import InputError

__all__ = ["Question", "read_questions"]


@dataclass(frozen=True)
class Question:
    """A prompt and its possible continuations.

    Attributes:
        prompt: What comes before.
        choices: The continuations in full, at least two, each with more than white space.
        gold: Index of the right one.
    """

    prompt: str
    choices: tuple[str, ...]
    gold: int

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise InputError(f"a question needs at least two choices, not {len(self.choices)}")
        if not all(choice.strip() for choice in self.choices):
            raise InputError("a choice is empty; correct or drop the record")
        if not 0 <= self.gold < len(self.choices):
            raise InputError(f"the right choice {self.gold} is none of the {len(self.choices)} choices")

    @property
    def text(self) -> str:
        """Prompt and right choice, the text that calibration on the same record would use."""
        return self.prompt + self.choices[self.gold]


def read_questions(task: Task, limit: int | None = None) -> tuple[Question, ...]:
    """The questions of a task file, in the order of its corpus.

    Args:
        task: A task whose completion has choices.
        limit: Read no more than the first so many; None: all.

    Raises:
        InputError: The task has no choices, the corpus cannot be read, or a record gives no question.
    """
    if not isinstance(task.completion, ChoiceCompletion):
        raise InputError(
            f"task '{task.name}': zero-shot accuracy needs a task file with choices and a label under [completion]; "
            "a task of lm-eval is given as --harness-task"
        )
    return tuple(islice(_questions(task, task.completion), limit))


def _questions(task: Task, completion: ChoiceCompletion) -> Iterator[Question]:
    for number, record in enumerate(task.records(), start=1):
        try:
            yield Question(render(task.prompt, record), *completion.choices_and_gold(record))
        except InputError as error:
            raise InputError(f"task '{task.name}': {task.corpus}, record {number}: {error}") from error
