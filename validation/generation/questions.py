"""Questions from task files whose answers are generated, with the examples before them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice

from seap_export.common.hashing import sha256_json
from seap_export.corpus import AnswerRule, Chat, Sample, Task
from seap_export.errors import InputError

_BETWEEN = "\n\n"  # examples, and the last of them and the question


@dataclass(frozen=True)
class OpenQuestion:
    """A prompt and the right answer."""

    prompt: str
    completion: str
    gold: str

    @property
    def text(self) -> str:
        """Prompt and completion, the text that calibration uses for this record."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class OpenTask:
    """A task's questions, which any number of models can answer.

    Attributes:
        rule: How the answer is found in a text, and where texts end.
        questions: At least one, in the order of the corpus.
        examples: Texts that come before every question.
    """

    name: str
    rule: AnswerRule
    questions: tuple[OpenQuestion, ...]
    examples: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError(f"task '{self.name}' has no questions; use another corpus")

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of all questions, each with the task's examples before it."""
        return tuple(_BETWEEN.join([*self.examples, question.prompt]) for question in self.questions)

    @property
    def sha256(self) -> str:
        """Digest of all that is asked, the right answers and where texts end."""
        answers = [question.gold for question in self.questions]
        return sha256_json([list(self.prompts), answers, self.rule.rule, list(self.rule.stop)])


def open_task(task: Task, limit: int | None = None, chat: Chat | None = None) -> OpenTask:
    """Reads the questions of a task file in the order of its corpus.

    Args:
        task: A task that says how answers are found.
        limit: Read only the first `limit` questions; None: all.
        chat: Renders conversations; None: the model has no chat template.

    Raises:
        InputError: The task does not say it, a corpus cannot be read or is too short, a completion contains no answer,
            or an example is one of the questions.
    """
    rule = task.answer
    if rule is None:
        raise InputError(
            f"task '{task.name}': generated answers need a task file that says how the answer is found; add "
            'answer = "last number" or a regular expression'
        )
    examples = _examples(task, rule)
    questions = tuple(islice(_questions(task, rule, chat), limit))
    shared = {question.prompt for question in questions} & {example.prompt for example in examples}
    if shared:
        raise InputError(
            f"task '{task.name}': {len(shared)} of the {len(examples)} examples are questions, too; take examples "
            "from another corpus, such as the training split"
        )
    return OpenTask(task.name, rule, questions, tuple(example.text.strip() for example in examples))


def _examples(task: Task, rule: AnswerRule) -> tuple[Sample, ...]:
    if rule.examples is None:
        return ()
    examples = tuple(islice(replace(task, corpus=rule.examples).texts(), rule.shots))
    if len(examples) < rule.shots:
        raise InputError(
            f"task '{task.name}': {rule.examples} has {len(examples)} texts, fewer than shots = {rule.shots}; use a "
            "larger corpus or fewer shots"
        )
    return examples


def _questions(task: Task, rule: AnswerRule, chat: Chat | None) -> Iterator[OpenQuestion]:
    for number, sample in enumerate(task.texts(chat), start=1):
        gold = rule.find(sample.completion)
        if gold is None:
            raise InputError(
                f"task '{task.name}': {task.corpus}, text {number}: no answer is found in the completion "
                f"{sample.completion!r:.60}; correct 'answer' or 'completion'"
            )
        if not sample.prompt.strip():
            raise InputError(
                f"task '{task.name}': {task.corpus}, text {number}: the prompt is empty; correct 'prompt'"
            )
        yield OpenQuestion(sample.prompt, sample.completion, gold)
