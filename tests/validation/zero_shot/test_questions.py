from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seap_export.corpus import parse_task
from seap_export.errors import InputError
from validation.zero_shot import Question, read_questions

PIQA = """
corpus = "corpus.jsonl"
prompt = "Question: {goal}\\nAnswer:"
[completion]
choices = [" {sol1}", " {sol2}"]
label = "label"
"""
ARC = """
corpus = "corpus.jsonl"
prompt = "{question}"
[completion]
choices = "choices.text"
labels = "choices.label"
label = "answerKey"
template = " {choice}"
"""
PIQA_RECORDS = [
    {"goal": "g", "sol1": "s", "sol2": "t", "label": 1},
    {"goal": "h", "sol1": "u", "sol2": "u", "label": False},
]
ARC_RECORDS = [{"question": "q", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "B"}]


def _task(folder: Path, task_file: str, records: list[dict[str, Any]]) -> Any:
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    (folder / "task.toml").write_text(task_file, "utf-8")
    return parse_task(f"t={folder / 'task.toml'}")


def test_choices_by_templates_or_a_list_field(tmp_path: Path) -> None:
    task = _task(tmp_path, PIQA, PIQA_RECORDS)
    expected = Question("Question: g\nAnswer:", (" s", " t"), 1), Question("Question: h\nAnswer:", (" u", " u"), 0)
    assert read_questions(task) == expected
    assert read_questions(task, 1) == expected[:1]
    assert read_questions(_task(tmp_path, ARC, ARC_RECORDS)) == (Question("q", (" x", " y", " z"), 1),)


@pytest.mark.parametrize(
    ("task_file", "record", "message"),
    [
        (PIQA, {"goal": "g", "sol1": "s", "sol2": "t", "label": -1}, "line 1: label -1"),
        (PIQA, {"goal": "g", "sol1": "s", "sol2": "", "label": 0}, "line 1: a choice is empty"),
        (ARC, {"question": "q", "choices": {"text": ["x"], "label": ["A"]}, "answerKey": "A"}, "at least two choices"),
        (ARC, {"question": "q", "choices": {"text": "x", "label": ["A"]}, "answerKey": "A"}, "is not a list"),
        (ARC, {"question": "q", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"}, "but 1 labels"),
    ],
)
def test_records_that_give_no_question(tmp_path: Path, task_file: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_questions(_task(tmp_path, task_file, [record]))


def test_a_right_choice_that_is_not_there() -> None:
    with pytest.raises(InputError, match="the 2 choices"):
        Question("p", (" a", " b"), 2)
