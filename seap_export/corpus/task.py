"""A task: a name, a corpus, and how the fields of the corpus become texts."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seap_export.corpus.readers import check_corpus, read_records
from seap_export.corpus.templates import check_path, check_template, is_index, look_up, render
from seap_export.errors import InputError, UsageError

__all__ = ["ChoiceCompletion", "Completion", "Sample", "Task", "TemplateCompletion", "parse_task", "parse_tasks"]

_TEXT_PROMPT = "{text}"  # of a corpus that is given without a task file
#: The longest task file (16 KiB); the parser's memory grows with the square of a long dotted key.
_MAX_TASK_BYTES = 16 * 2**10
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")


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
        """Prompt and completion, one after the other."""
        return self.prompt + self.completion


@dataclass(frozen=True)
class TemplateCompletion:
    """A completion that is written out by one template, such as ` {answer}`."""

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
        choices: One template a choice, or the path of a field that holds the list of choices.
        label: Path of the field that names the right choice: its index from 0 (a truth value counts as 0
            or 1, digits as a number), or one of `labels`.
        labels: Path of a field that holds one label a choice.
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
        name: The name of its folders: up to 64 letters, digits, `-`, `_` and `.`, no `.` in front.
        corpus: The corpus file.
        prompt: Template of the prompt.
        completion: What follows the prompt; None: nothing.
    """

    name: str
    corpus: Path
    prompt: str = _TEXT_PROMPT
    completion: Completion | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(
                f"task name {self.name!r} cannot name a folder; use up to 64 of A-Z a-z 0-9 - _ . (no leading '.')"
            )
        check_template(self.prompt)

    def texts(self) -> Iterator[Sample]:
        """The samples of the corpus, in the order of the file; records that give only white space are skipped.

        Raises:
            InputError: The corpus cannot be read, or a record lacks a field or has no right label.
        """
        for number, record in enumerate(read_records(self.corpus), start=1):
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
        return "; give a task file (.toml) that makes a text of them" if lacks_text else ""


def parse_tasks(specs: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of several `NAME=FILE`.

    Raises:
        UsageError: A spec is malformed, or two tasks have the same name.
        InputError: A task file or a corpus cannot be used.
    """
    tasks = tuple(parse_task(spec) for spec in specs)
    names = [task.name.lower() for task in tasks]  # they become folders, and to many disks "A" and "a" are one
    for index, name in enumerate(names):
        if name in names[:index]:
            raise UsageError(f"task name '{name}' is given twice (case does not count); rename one of the tasks")
    return tasks


def parse_task(spec: str) -> Task:
    """The task of `NAME=FILE`, where the file is a corpus with a field `text`, or a task file (.toml).

    Raises:
        UsageError: The spec is malformed, or the name cannot be a folder name.
        InputError: The task file or the corpus cannot be used.
    """
    name, _, file = spec.partition("=")
    if not name or not file:
        raise UsageError(f"task {spec!r} is malformed; write NAME=FILE, such as maths=maths.jsonl")
    path = Path(os.path.expanduser(file))
    task = _read_task_file(name, path) if path.suffix.lower() == ".toml" else Task(name, path)
    check_corpus(task.corpus)
    return task


def _read_task_file(name: str, path: Path) -> Task:
    try:
        table = tomllib.loads(_small_text(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give the path of a task file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file ({error}); see samples/tasks for an example") from error
    try:
        _refuse_unknown_keys(table, ("corpus", "prompt", "completion"))
        completion = _completion(table["completion"]) if "completion" in table else None
        return Task(name, path.parent / _string(table, "corpus"), _string(table, "prompt"), completion)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _small_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MAX_TASK_BYTES + 1)
    if len(content) > _MAX_TASK_BYTES:
        raise ValueError(f"it is longer than {_MAX_TASK_BYTES // 2**10} KiB")
    return content.decode("utf-8")


def _completion(value: object) -> Completion:
    if isinstance(value, str):
        return TemplateCompletion(value)
    if not isinstance(value, dict):
        raise InputError("'completion' must be a template or a table with 'choices' and 'label'")
    _refuse_unknown_keys(value, ("choices", "label", "labels", "template"))
    choices = value.get("choices")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        choices = tuple(choices)
    elif not isinstance(choices, str):
        raise InputError("'choices' must be a list of templates or the path of a list field")
    optional = {key: _string(value, key) for key in ("labels", "template") if key in value}
    return ChoiceCompletion(choices, _string(value, "label"), **optional)


def _refuse_unknown_keys(table: Mapping[str, Any], known: Sequence[str]) -> None:
    unknown = [key for key in table if key not in known]
    if unknown:
        raise InputError(f"unknown key {unknown[0]!r}; known keys: {', '.join(known)}")


def _string(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    if not isinstance(value, str):
        found = f"not {value!r:.40}" if key in table else "but it is missing"
        raise InputError(f"key '{key}' must be a string, {found}; write {key} = \"...\"")
    return value


def _list_field(path: str, record: Mapping[str, Any]) -> list[Any]:
    value = look_up(path, record)
    if not isinstance(value, list):
        raise InputError(f"field '{path}' is not a list, but {value!r:.40}; name a field that holds a list")
    return value


def _position(label: object, labels: list[Any], num_choices: int) -> int:
    # as texts, since a label 1 and a list of "1", "2" mean the same
    names = [str(name) for name in labels]
    if len(names) != num_choices:
        raise InputError(f"{num_choices} choices, but {len(names)} labels; mend or drop the record")
    if label is None or str(label) not in names:
        raise InputError(f"label {label!r:.40} is none of the labels {', '.join(names):.80}; use a labelled record")
    return names.index(str(label))
