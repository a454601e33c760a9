"""Questions whose answers are generated, from task files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seap_export.corpus import parse_task
from seap_export.errors import InputError
from validation.generation import OpenQuestion, open_task

TASK = 'corpus = "a.jsonl"\nprompt = "Question: {q}\\nAnswer:"\ncompletion = " {a}"\nanswer = "last number"\n'
RECORDS = [{"q": "1+1?", "a": "It is 2."}, {"q": "2+2?", "a": "2+2=4\n#### 4"}]
EXAMPLES = [{"q": "3+3?", "a": "6 "}, {"q": "4+4?", "a": "8"}, {"q": "1+1?", "a": "2"}]


def _opened(tmp_path: Path, words: str = "", records: list[dict[str, str]] = RECORDS, limit: int | None = None) -> Any:
    for name, lines in {"a": records, "b": EXAMPLES}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    (tmp_path / "a.toml").write_text(TASK + words)
    return open_task(parse_task(f"a={tmp_path / 'a.toml'}"), limit)


def test_the_right_answer_is_found_in_the_completion(tmp_path: Path) -> None:
    task = _opened(tmp_path)
    assert task.questions == (
        OpenQuestion("Question: 1+1?\nAnswer:", " It is 2.", "2"),
        OpenQuestion("Question: 2+2?\nAnswer:", " 2+2=4\n#### 4", "4"),
    )
    assert task.prompts == ("Question: 1+1?\nAnswer:", "Question: 2+2?\nAnswer:")
    assert task.questions[0].text == "Question: 1+1?\nAnswer: It is 2."
    assert _opened(tmp_path, limit=1).questions == task.questions[:1]


def test_examples_come_before_every_question(tmp_path: Path) -> None:
    task = _opened(tmp_path, 'shots = 2\nexamples = "b.jsonl"\n')
    assert task.prompts[1] == ("Question: 3+3?\nAnswer: 6\n\nQuestion: 4+4?\nAnswer: 8\n\nQuestion: 2+2?\nAnswer:")
    assert task.sha256 != _opened(tmp_path).sha256


def test_an_example_that_is_a_question_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 of the 3 examples are questions, too"):
        _opened(tmp_path, 'shots = 3\nexamples = "b.jsonl"\n')
    with pytest.raises(InputError, match="has 3 texts, fewer than shots = 4"):
        _opened(tmp_path, 'shots = 4\nexamples = "b.jsonl"\n')


@pytest.mark.parametrize(
    ("record", "message"),
    [({"q": "x", "a": "no number"}, "text 1: no answer is found in the completion ' no number'"), ({"q": "x"}, "'a'")],
)
def test_a_record_without_an_answer_is_refused(tmp_path: Path, record: dict[str, str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        _opened(tmp_path, records=[record])
    assert message in str(caught.value)
