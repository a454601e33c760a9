"""Multiple-choice questions from local files: the task files of calibration, with all their choices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from seap_export.corpus import Chat, ChoiceCompletion, Task
from seap_export.errors import InputError


@dataclass(frozen=True)
class Question:
    """A prompt and its possible continuations.

    Attributes:
        prompt: Text before each choice.
        choices: The full continuations, at least two, none of them blank.
        gold: Index of the correct choice.
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
            raise InputError(f"the label {self.gold} is not the index of one of the {len(self.choices)} choices")

    @property
    def text(self) -> str:
        """The prompt and the correct choice, the text that calibration uses for this record."""
        return self.prompt + self.choices[self.gold]


def read_questions(task: Task, limit: int | None = None, chat: Chat | None = None) -> tuple[Question, ...]:
    """Reads the questions of a task file in the order of its corpus.

    Args:
        task: A task whose completion has choices.
        limit: Read only the first `limit` questions; None: all.
        chat: Renders conversations; None: the model has no chat template.

    Raises:
        InputError: The task has no choices, the corpus cannot be read, or a record is not a question.
    """
    if not isinstance(task.completion, ChoiceCompletion):
        raise InputError(
            f"task '{task.name}': zero-shot accuracy needs a task file with choices and a label under [completion]; "
            "a task of lm-eval is given as --harness-task"
        )
    return tuple(islice(_questions(task, task.completion, chat), limit))


def _questions(task: Task, completion: ChoiceCompletion, chat: Chat | None) -> Iterator[Question]:
    for number, record in enumerate(task.records(), start=1):
        try:
            choices, gold = completion.choices_and_gold(record)
            samples = [task.sample(record, choice, chat) for choice in choices]
            # chat templates may cut the text at different places, each within what they have in common
            prompt = min((sample.prompt if sample else "" for sample in samples), key=len, default="")
            yield Question(prompt, tuple(sample.text[len(prompt) :] if sample else "" for sample in samples), gold)
        except InputError as error:
            raise task.refusal(number, error) from error
