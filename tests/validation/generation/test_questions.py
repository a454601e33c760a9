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


def test_the_right_answer_is_found_in_the_completion_and_examples_come_first(tmp_path: Path) -> None:
    task = _opened(tmp_path)
    prompts = ("Question: 1+1?\nAnswer:", "Question: 2+2?\nAnswer:")
    expected = OpenQuestion(prompts[0], " It is 2.", "2"), OpenQuestion(prompts[1], " 2+2=4\n#### 4", "4")
    assert (task.questions, task.prompts) == (expected, prompts)
    assert task.questions[0].text == "Question: 1+1?\nAnswer: It is 2."
    assert _opened(tmp_path, limit=1).questions == task.questions[:1]
    shown = _opened(tmp_path, 'shots = 2\nexamples = "b.jsonl"\n')
    assert shown.prompts[1] == f"Question: 3+3?\nAnswer: 6\n\nQuestion: 4+4?\nAnswer: 8\n\n{prompts[1]}"
    assert shown.sha256 != task.sha256


@pytest.mark.parametrize(
    ("record", "shots", "message"),
    [
        (RECORDS[0], 3, "1 of the 3 examples are questions, too"),
        (RECORDS[0], 4, "has 3 texts, fewer than shots = 4"),
        ({"q": "x", "a": "no number"}, 0, "text 1: no answer is found in the completion ' no number'"),
        ({"q": "x"}, 0, "'a'"),
    ],
)
def test_what_gives_no_questions_is_refused(tmp_path: Path, record: dict[str, str], shots: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _opened(tmp_path, f'shots = {shots}\nexamples = "b.jsonl"\n' if shots else "", records=[record])
