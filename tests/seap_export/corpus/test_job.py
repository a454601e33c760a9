"""A job: which tables it is made from, what the model is asked, and how its answers end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.product import Job

from seap_export.corpus import Sample, parse_task
from seap_export.corpus.job import job_source, job_task, labels_of
from seap_export.errors import InputError, UsageError

#: Of 20 rows, the fewest that there may be.
ROWS = [(f"Parcel {number}?", "yes" if number % 3 else "no") for number in range(20)]
PROMPT = "Message: {message}\nIntent:"


def _write(folder: Path, *rows: tuple[Any, Any], name: str = "a.jsonl") -> Path:
    """A table of `ROWS`, of which the first ones are replaced by these."""
    records = [{"message": message, "intent": intent} for message, intent in (*rows, *ROWS[len(rows) :])]
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return folder / name


SOURCES = {
    "a.csv:message:intent": (Path("a.csv"), "message", "intent"),
    "x/a.JSONL:a.b[0]:the answer": (Path("x/a.JSONL"), "a.b[0]", "the answer"),
    "C:/a.csv:message:intent": (Path("C:/a.csv"), "message", "intent"),
    "~/a.parquet:q:a": (Path.home() / "a.parquet", "q", "a"),
    **dict.fromkeys(("a.csv", "owner/name:config", "sample:topic", "a.toml:message:intent")),
}


def test_a_source_names_a_table_and_two_fields(tmp_path: Path) -> None:
    assert {source: job_source(source) for source in SOURCES} == SOURCES
    for fields in ("message", "", ":", "message:", ":intent", "a:b:c"):
        with pytest.raises(UsageError, match=r"must name two fields.*; write a\.csv:message:intent"):
            job_source(f"x/a.csv:{fields}")
    path = _write(tmp_path, name="a.csv:b.jsonl")  # a file of that very name
    assert (job_source(str(path)), parse_task(f"a={path}").is_learnt) == (None, False)


def test_the_model_is_asked_with_the_names_of_the_fields_and_learns_the_answers(tmp_path: Path) -> None:
    path = _write(tmp_path)
    task = parse_task(f"x={path}:message:intent")
    assert task.job == Job(PROMPT, "\n", "intent", ("no", "yes"))
    assert (task.is_learnt, task.says_what_is_right, task.given_as) == (True, True, f"{path}:message:intent")
    assert list(task.texts()) == [Sample(f"Message: {asked}\nIntent:", f" {right}\n") for asked, right in ROWS]
    assert task.answer is not None
    assert task.answer.find(" no\n") == "no"
    assert parse_task(f"{path}:message:intent").name == "a"
    plain = parse_task(f"x={path}")
    assert (plain.is_learnt, plain.job) == (False, None)


@pytest.mark.parametrize(
    ("answer", "end"), [("yes", "\n"), ("first\nsecond", "\n\n"), ("first\n\nsecond\n", "\n###\n"), ("\na ### ", "\n")]
)
def test_an_answer_ends_with_what_is_in_none(tmp_path: Path, answer: str, end: str) -> None:
    task = job_task("x", _write(tmp_path, ("Parcel?", answer)), "message", "intent")
    assert task.answer is not None
    assert (task.answer.stop, task.labels) == ((end,), tuple(sorted({answer.strip(), "no", "yes"})))
    assert task.job == Job(PROMPT, end, "intent", task.labels)
    completion = next(iter(task.texts())).completion
    assert completion == f" {answer.strip()}{end}"
    assert task.answer.find(task.answer.before_stop(completion) or "") == answer.strip()
    assert next(iter(task.texts())).prompt == Job(PROMPT).asked(" Parcel?\n")


def test_answers_are_labels_if_they_come_four_times_on_average() -> None:
    assert labels_of(["b", "a"] * 4) == labels_of(["b", *"aaaaaaa"]) == ("a", "b")
    assert labels_of(["b", *"aaaaaa"]) == labels_of("aaaaaaaa") == labels_of([]) == ()


@pytest.mark.parametrize(
    ("given", "answer", "prompt"),
    [
        ("meta.user_text", "labels[0]", "User text: {meta.user_text}\n0:"),
        ("meta[eMail]", "Answer", "EMail: {meta[eMail]}\nAnswer:"),
    ],
)
def test_fields_are_shown_by_their_last_names(tmp_path: Path, given: str, answer: str, prompt: str) -> None:
    rows = [
        {"Answer": right, "labels": [right], "meta": {"user_text": asked, "eMail": asked}} for asked, right in ROWS
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    task = parse_task(f"x={tmp_path}/a.jsonl:{given}:{answer}")
    assert task.job == Job(prompt, "\n", answer, ("no", "yes"))
    assert next(iter(task.texts())) == Sample(re.sub("{.*}", ROWS[0][0], prompt), f" {ROWS[0][1]}\n")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(" Parcel 7? ", "yes ")], "has 19 inputs that differ, and a model needs 20"),
        ([(f"Parcel {number}?", "yes") for number in range(20)], "field 'intent' of .* is 'yes' in all rows"),
        ([("Hi", "yes"), ("No", "no"), ("Hi ", "no")], r"two answers, 'yes' \(line 1\) and 'no' \(line 3\), to 'Hi'"),
        ([("Hi", "yes"), ("Yo", " \n")], "line 2: field 'intent' is empty; fill it"),
        ([("", "yes")], "line 1: field 'message' is empty"),
        ([("Hi", None)], "line 1: field 'intent' is null"),
        ([("Hi", "a\n\nb\n###\nc")], "contains the line '###'"),
    ],
)
def test_a_table_that_teaches_nothing_is_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    path = _write(tmp_path, *rows)
    with pytest.raises(InputError, match=message) as caught:
        parse_task(f"x={path}:message:intent")
    assert str(caught.value).startswith("task 'x': ")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_repeats_a_row_is_no_contradiction_and_places_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = [f"{asked},{right}" for asked, right in (*ROWS, (" Parcel 0?", "no "))]
    path.write_text("\n".join(["message,intent", *lines]), "utf-8")
    assert parse_task(f"x={path}:message:intent").is_learnt
    path.write_text("\n".join(["message,intent", *lines, "Parcel 1?,no"]), "utf-8")
    with pytest.raises(InputError, match=r"two answers, 'yes' \(record 2\) and 'no' \(record 22\)"):
        parse_task(f"x={path}:message:intent")


def test_fields_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path)
    with pytest.raises(UsageError, match="'message' is the input and the answer; name two fields"):
        parse_task(f"x={path}:message:message")
    for field, message in (("label", "line 1: field 'label' is missing"), ("{intent}", "field '{intent}' is malform")):
        with pytest.raises(InputError, match=message):
            parse_task(f"x={path}:message:{field}")


LEARNT = 'corpus = "a.jsonl"\nlearn = true\n'
ASKED = 'prompt = "{message} ({lang})"\ncompletion = " {intent}"\n'
TASK_FILES = {
    LEARNT + ASKED: Job("{message} ({lang})", "", "intent"),
    LEARNT + ASKED + 'answer = "(.*)"\nstop = ["\\n", "x"]': Job("{message} ({lang})", "\n", "intent"),
    LEARNT + 'prompt = "{a}"\ncompletion = "{b} {c}"': Job("{a}"),
    LEARNT + 'prompt = "{a}"\ncompletion = {choices = [" no", " yes"], label = "b"}': Job("{a}"),
    LEARNT + 'user = "{a}"\nassistant = "{b}"': None,
    LEARNT: None,
    LEARNT.replace("true", "false") + ASKED: None,
}
FAULTY = {
    LEARNT.replace("true", "1"): "'learn' must be true or false, not 1",
    LEARNT + 'prompt = "{message}"': "'learn' needs the right answers; add a completion",
    LEARNT + 'user = "{message}"': "'learn' needs the right answers",
}


def test_a_task_file_says_what_is_learnt(tmp_path: Path) -> None:
    _write(tmp_path)
    for task_file, job in TASK_FILES.items():
        (tmp_path / "a.toml").write_text(task_file)
        task = parse_task(f"a={tmp_path / 'a.toml'}")
        assert (task.is_learnt, task.job) == ("true" in task_file, job)
    for task_file, message in FAULTY.items():
        (tmp_path / "a.toml").write_text(task_file)
        with pytest.raises(InputError, match=message):
            parse_task(f"a={tmp_path / 'a.toml'}")
