"""Questions whose answers are generated, from task files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from support.product import ChatTemplate

from seap_export.corpus import parse_task
from seap_export.errors import InputError
from validation.generation import OpenQuestion, OpenTask, open_task

TASK = 'corpus = "a.jsonl"\nprompt = "Question: {q}\\nAnswer:"\ncompletion = " {a}"\nanswer = "last number"\n'
RECORDS = [{"q": "1+1?", "a": "It is 2."}, {"q": "2+2?", "a": "2+2=4\n#### 4"}]
EXAMPLES = [{"q": "3+3?", "a": "6 "}, {"q": "4+4?", "a": "8"}, {"q": "1+1?", "a": "2"}]
TEMPLATE = ChatTemplate(
    {
        "default": "{% for turn in messages %}{{ turn.role }}: {{ turn.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    },
    {},
)
SAMPLES = Path(__file__).parents[3] / "samples" / "tasks" / "benchmarks"


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


def test_a_task_that_does_not_say_how_answers_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n')
    with pytest.raises(InputError, match=r"task 'a': generated answers need a task file .* answer = "):
        open_task(parse_task(f"a={tmp_path / 'a.jsonl'}"))


def test_digests_tell_what_was_asked(tmp_path: Path) -> None:
    plain = _opened(tmp_path)
    digests = {plain.sha256, _opened(tmp_path, 'stop = ["x"]\n').sha256, _opened(tmp_path, limit=1).sha256}
    assert len(digests) == 3
    with pytest.raises(InputError, match="task 'a' has no questions"):
        OpenTask("a", plain.rule, ())


def test_the_sample_task_of_gsm8k(tmp_path: Path) -> None:
    """Its records are those of the data set, its examples those of the other split."""
    sample = shutil.copy(SAMPLES / "gsm8k_test.toml", tmp_path)
    splits = {"test": ["1+1?"], "train": [f"{number}+2?" for number in range(5)]}
    for split, questions in splits.items():
        records = [{"question": question, "answer": "It is <<1+1=2>>2.\n#### 1,002"} for question in questions]
        table = pyarrow.Table.from_pylist(records)
        pyarrow.parquet.write_table(table, tmp_path / f"gsm8k__{split}-00000-of-00001.parquet")
    task = open_task(parse_task(f"gsm8k={sample}"))
    assert [question.gold for question in task.questions] == ["1002"]
    assert task.prompts[0].count("Question: ") == 5
    assert task.prompts[0].endswith("#### 1,002\n\nQuestion: 1+1?\nAnswer:")


def test_the_sample_task_in_a_chat_template(tmp_path: Path) -> None:
    sample = shutil.copy(SAMPLES / "gsm8k_chat_test.toml", tmp_path)
    table = pyarrow.Table.from_pylist([{"question": "1+1?", "answer": "It is 2.\n#### 2"}])
    pyarrow.parquet.write_table(table, tmp_path / "gsm8k__test-00000-of-00001.parquet")
    (question,) = open_task(parse_task(f"gsm8k={sample}"), chat=TEMPLATE).questions
    assert question == OpenQuestion(
        "user: 1+1?\nPlease reason step by step, and put your final answer within \\boxed{}.\nassistant: ",
        "It is 2.\n#### 2\n",
        "2",
    )
