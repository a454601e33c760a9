"""A job: a table with an input and a right answer in each row, from which the prompts are made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from seap_export.common.templates import check_path, render
from seap_export.corpus.answers import AnswerRule
from seap_export.corpus.readers import CORPUS_SUFFIXES, place_of, read_records
from seap_export.corpus.task import Task, TemplateCompletion
from seap_export.errors import InputError, UsageError

#: Rows of a job at least.
_LEAST = 20
#: Answers are labels if each comes at least so many times on average.
_LEAST_REPEATED = 4
#: What ends an answer: the first of these that is in none.
_ENDS = ("\n", "\n\n", "\n###\n")
_SOURCE = re.compile(rf"(.*(?:{'|'.join(map(re.escape, CORPUS_SUFFIXES))})):(.*)", re.IGNORECASE | re.DOTALL)


def job_source(source: str) -> tuple[Path, str, str] | None:
    """The file and the fields of `FILE:INPUT:ANSWER`; None if the source is of another form.

    Raises:
        UsageError: It names one field, or more than two.
    """
    match = _SOURCE.fullmatch(source)
    if match is None or Path(source).exists():
        return None
    fields = match[2].split(":")
    if len(fields) != 2 or not all(fields):
        raise UsageError(
            f"{source!r:.60} must name two fields, the input and the right answer; write {Path(match[1]).name}:"
            "message:intent"
        )
    return Path(match[1]).expanduser(), fields[0], fields[1]


def job_task(name: str, file: Path, given: str, answer: str) -> Task:
    """The task of a table, which is read once to check it.

    The model is shown the names of both fields, as in `Message: Where is my parcel?`, a new line, and `Intent:`.

    Args:
        given: Path of the field that holds the input.
        answer: Path of the field that holds the right answer.

    Raises:
        UsageError: The fields are the same.
        InputError: The file cannot be read, lacks a field, has too few rows, one answer for all, or two for one input.
    """
    for path in (given, answer):
        check_path(path)
    if given == answer:
        raise UsageError(f"task '{name}': {given!r} is the input and the answer; name two fields")
    answers = _answers(name, file, given, answer)
    if len(answers) < _LEAST:
        raise InputError(
            f"task '{name}': {file} has {len(answers)} inputs that differ, and a model needs {_LEAST} to learn from; "
            "give more rows"
        )
    if len(set(answers.values())) == 1:
        label = next(iter(answers.values()))
        raise InputError(
            f"task '{name}': field {answer!r} of {file} is {label!r:.40} in all rows; give rows with others, too"
        )
    end = next((end for end in _ENDS if not any(end in text for text in answers.values())), None)
    if end is None:
        raise InputError(f"task '{name}': an answer in {file} contains the line '###'; write another one in its place")
    prompt = f"{_title(given)}: {{{given}}}\n{_title(answer)}:"
    rule = AnswerRule("(?s)(.*)", (end,))
    completion = TemplateCompletion(f" {{{answer}}}{end}")
    return Task(name, file, prompt, completion, rule, is_learnt=True, labels=labels_of(answers.values()))


def labels_of(answers: Iterable[str]) -> tuple[str, ...]:
    """The distinct answers, sorted, if they are labels: each comes several times on average. Else none."""
    counts = Counter(answers)
    return tuple(sorted(counts)) if len(counts) > 1 and counts.total() >= _LEAST_REPEATED * len(counts) else ()


def _answers(name: str, file: Path, given: str, answer: str) -> dict[str, str]:
    """The right answer to each input."""
    answers, rows = dict[str, str](), dict[str, int]()
    for number, (question, right) in _pairs(name, file, given, answer):
        before = answers.setdefault(question, right)
        if before != right:
            first, second = (place_of(file, row) for row in (rows[question], number))
            raise InputError(
                f"task '{name}': {file} has two answers, {before!r:.40} ({first}) and {right!r:.40} ({second}), to "
                f"{question!r:.40}; correct one of the rows"
            )
        rows.setdefault(question, number)
    return answers


def _pairs(name: str, file: Path, given: str, answer: str) -> Iterator[tuple[int, tuple[str, str]]]:
    """The number of each row, its input and its answer, without the white space around them."""
    for number, record in enumerate(read_records(file), start=1):
        try:
            pair = tuple(render(f"{{{path}}}", record).strip() for path in (given, answer))
            empty = next((path for path, text in zip((given, answer), pair, strict=True) if not text), None)
            if empty is not None:
                raise InputError(f"field {empty!r} is empty; fill it, or drop the row")
        except InputError as error:
            raise InputError(f"task '{name}': {file}, {place_of(file, number)}: {error}") from error
        yield number, (pair[0], pair[1])


def _title(path: str) -> str:
    """The name of a field as the model is shown it."""
    name = re.split(r"[.\[]", path)[-1].rstrip("]").replace("_", " ").strip() or path
    return name[:1].upper() + name[1:]
