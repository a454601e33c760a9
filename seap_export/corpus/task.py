"""A task: a name, a corpus, and how the fields of the corpus become texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.corpus.answers import AnswerRule
from seap_export.corpus.hub import HarnessCorpus, HubCorpus
from seap_export.corpus.names import NAME_RULE, is_folder_name
from seap_export.corpus.readers import read_records
from seap_export.corpus.templates import check_path, check_template, is_index, look_up, render
from seap_export.errors import InputError, UsageError

__all__ = ["ChoiceCompletion", "Completion", "Corpus", "Sample", "Task", "TemplateCompletion"]

#: A file, or data that are downloaded.
Corpus = Path | HubCorpus | HarnessCorpus

_TEXT_PROMPT = "{text}"  # for a corpus that is given without a task file


@dataclass(frozen=True)
class Sample:
    """A text in two parts: the prompt, and the completion a model should give (empty where there is none)."""

    prompt: str
    completion: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise InputError("a sample needs a text that is more than white space")

    @property
    def text(self) -> str:
        """The prompt followed by the completion."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class TemplateCompletion:
    """A completion produced by one template, such as ` {answer}`."""

    template: str

    def __post_init__(self) -> None:
        check_template(self.template)

    def render(self, record: Mapping[str, Any]) -> str:
        """The completion of a record.

        Raises:
            InputError: The record lacks a field.
        """
        return render(self.template, record)


@dataclass(frozen=True)
class ChoiceCompletion:
    """A completion that is the right one among several choices.

    Attributes:
        choices: One template per choice, or the path of a field that holds the list of choices.
        label: Path of the field that names the right choice: its index from 0 (a truth value counts as 0
            or 1, digits as a number), or one of `labels`.
        labels: Path of a field that holds one label per choice.
        template: How a choice becomes the completion; `{choice}` is the choice, other fields may be used.
    """

    choices: tuple[str, ...] | str
    label: str
    labels: str | None = None
    template: str = "{choice}"

    def __post_init__(self) -> None:
        if not self.choices:
            raise InputError("'choices' is empty; give a list of templates or the path of a list field")
        if isinstance(self.choices, str):
            check_path(self.choices)
        else:
            for choice in self.choices:
                check_template(choice)
        check_path(self.label)
        if self.labels is not None:
            check_path(self.labels)
        check_template(self.template)

    def render(self, record: Mapping[str, Any]) -> str:
        """The right completion of a record.

        Raises:
            InputError: The record lacks a field, or its label names none of the choices.
        """
        choices, gold = self.choices_and_gold(record)
        return choices[gold]

    def choices_and_gold(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
        """All completions of a record, and the index of the right one.

        Raises:
            InputError: The record lacks a field, or its label names none of the choices.
        """
        if isinstance(self.choices, str):
            choices = _list_field(self.choices, record)
        else:
            choices = [render(choice, record) for choice in self.choices]
        gold = self._gold_index(record, len(choices))
        return tuple(render(self.template, {**record, "choice": choice}) for choice in choices), gold

    def _gold_index(self, record: Mapping[str, Any], num_choices: int) -> int:
        label = look_up(self.label, record)
        if self.labels is not None:
            return _position(label, _list_field(self.labels, record), num_choices)
        if isinstance(label, str) and is_index(label):
            label = int(label)
        if not isinstance(label, int) or not 0 <= label < num_choices:
            raise InputError(
                f"label {label!r:.40} in field '{self.label}' is not the index of a choice (0 to {num_choices - 1}); "
                "use records that have a right answer"
            )
        return int(label)


Completion = TemplateCompletion | ChoiceCompletion


@dataclass(frozen=True)
class Task:
    """One task to prune for.

    Attributes:
        name: The name of its folders (`seap_export.corpus.names`).
        corpus: Where its records come from.
        prompt: Template of the prompt.
        completion: What follows the prompt; None: nothing.
        answer: How the answer is found in a completion and in generated text; None: the task does not say it.
    """

    name: str
    corpus: Corpus
    prompt: str = _TEXT_PROMPT
    completion: Completion | None = None
    answer: AnswerRule | None = None

    def __post_init__(self) -> None:
        if not is_folder_name(self.name):
            raise UsageError(f"task name {self.name!r} cannot name a folder; use {NAME_RULE}")
        check_template(self.prompt)

    @property
    def notice(self) -> str:
        """What the user should know about the corpus, such as the split that is used; "" for nothing.

        Raises:
            InputError, EnvironmentFailure: The corpus cannot be downloaded or used.
        """
        return "" if isinstance(self.corpus, Path) else self.corpus.notice

    def records(self) -> Iterator[dict[str, Any]]:
        """The records of the corpus, in its order.

        Raises:
            InputError, EnvironmentFailure: The corpus cannot be read or downloaded.
        """
        return read_records(self.corpus) if isinstance(self.corpus, Path) else self.corpus.records()

    def texts(self) -> Iterator[Sample]:
        """The samples of the corpus, in its order; records that yield only white space are skipped.

        Raises:
            InputError: The corpus cannot be read, or a record lacks a field or has no right label.
            EnvironmentFailure: The corpus cannot be downloaded.
        """
        for number, record in enumerate(self.records(), start=1):
            try:
                prompt = render(self.prompt, record)
                completion = "" if self.completion is None else self.completion.render(record)
            except InputError as error:
                where = f"task '{self.name}': {self.corpus}, record {number}"
                raise InputError(f"{where}: {error}{self._hint(record)}") from error
            if prompt.strip() or completion.strip():
                yield Sample(prompt, completion)

    def _hint(self, record: Mapping[str, Any]) -> str:
        lacks_text = self.prompt == _TEXT_PROMPT and "text" not in record
        return "; give a task file (.toml) that turns them into a text" if lacks_text else ""


def _list_field(path: str, record: Mapping[str, Any]) -> list[Any]:
    value = look_up(path, record)
    if not isinstance(value, list):
        raise InputError(f"field '{path}' is not a list, but {value!r:.40}; name a field that holds a list")
    return value


def _position(label: object, labels: list[Any], num_choices: int) -> int:
    # as texts, since a label 1 and a list of "1", "2" mean the same
    names = [str(name) for name in labels]
    if len(names) != num_choices:
        raise InputError(f"{num_choices} choices, but {len(names)} labels; correct or drop the record")
    if label is None or str(label) not in names:
        raise InputError(
            f"label {label!r:.40} is not one of the labels {', '.join(names):.80}; correct or drop the record"
        )
    return names.index(str(label))
