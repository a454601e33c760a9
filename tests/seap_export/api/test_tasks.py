"""Tasks as Python has them, all read as the same texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest

from seap_export.common.values import Mismatch
from seap_export.corpus import Task
from seap_export.errors import InputError, SeapError, UsageError
from seap_export.pipeline.request.tasks import Tasks

TEXTS = ["the cat sat", "a dog ran", "and then\nhome"]
RECORDS = [{"text": text, "number": index} for index, text in enumerate(TEXTS)]


def tasks_of(value: Any) -> tuple[Task, ...]:
    return Tasks.read(value)


def texts_of(task: Task) -> list[str]:
    return [sample.text for sample in task.texts()]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return Path("a.jsonl")


@pytest.mark.parametrize(
    "form",
    [
        lambda: TEXTS,
        lambda: iter(RECORDS),
        lambda: datasets.Dataset.from_list(RECORDS),
        lambda: datasets.Dataset.from_list(RECORDS).to_iterable_dataset(),
        lambda: "a.jsonl",
    ],
)
def test_every_form_gives_the_same_texts_each_time_they_are_read(form: Callable[[], Any], file: Path) -> None:
    (task,) = tasks_of({"a": form()})
    assert task.name == "a"
    assert [texts_of(task), texts_of(task)] == [TEXTS, TEXTS]
    assert task.notice == ""


def test_sources_are_given_as_on_the_command_line(file: Path) -> None:
    tasks = tasks_of(["a=a.jsonl", "b=a.jsonl"])
    assert {task.name: texts_of(task) for task in tasks} == {"a": TEXTS, "b": TEXTS}


class Frame:
    """Iterates over its columns, as a data frame does."""

    def __iter__(self) -> Any:
        return iter(["text"])

    def itertuples(self) -> None:
        """Of pandas."""


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ({"a": b"text"}, Mismatch, ["a mapping from names"]),
        ({"a": {"train": ["x"], "test": ["y"]}}, UsageError, ["'a'", "'train', 'test'", "one of its data sets"]),
        ({"a": Frame()}, UsageError, ["data frame", "to_dict"]),
        ({"a": TEXTS, "A": TEXTS}, UsageError, ["twice"]),
        ({"a": "missing.jsonl"}, InputError, ["missing.jsonl", "no such file"]),
        (TEXTS, UsageError, ["'the cat sat'", "text", "{'maths': texts}"]),
        (["a"], SeapError, []),  # a task of lm-eval that there is not
    ],
)
def test_what_is_not_a_task_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, value: Any, error: type[Exception], words: list[str]
) -> None:
    monkeypatch.setattr("lm_eval.tasks.TaskManager", lambda: SimpleNamespace(all_tasks=()))  # reading all takes 8 s
    with pytest.raises(error) as caught:
        tasks_of(value)
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], ["empty", "at least one text"]),
        (["x", 3], ["record 2", "3"]),
        (["x", "\ud800"], ["record 2", "Unicode"]),
        ([{"text": "x"}, {"number": 1}], ["record 2", "'text'"]),
    ],
)
def test_what_is_not_a_text_is_refused_by_its_number(texts: Iterable[Any], words: list[str]) -> None:
    (task,) = tasks_of({"a": texts})
    with pytest.raises(InputError) as caught:
        texts_of(task)
    assert str(caught.value).startswith("task 'a': the given texts")
    assert [word for word in words if word not in str(caught.value)] == []
