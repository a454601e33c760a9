"""How answers are found in texts, and what task files say about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from seap_export.corpus import LAST_NUMBER, AnswerRule, parse_task


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 + 4 = 7.", "7"),
        ("She earns $1,250.50.", "1250.5"),
        ("#### 1,000,000", "1000000"),
        ("It costs 18.00 dollars", "18"),
        ("It is -5", "-5"),
        ("It is -$5.", "-5"),
        ("7-5", "5"),
        ("(7)-5", "5"),
        ("007", "7"),
        ("-0.0", "0"),
        ("9" * 60, "9" * 60),
        ("no number", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert AnswerRule(LAST_NUMBER).find(text) == number


def test_a_pattern_finds_its_group_where_it_first_matches_before_the_first_of_its_stops() -> None:
    rule = AnswerRule(r"(?:answer|result) is ([^.]*)")
    assert rule.find("The answer is a cat . The answer is a dog.") == "a cat"
    assert rule.find("no answer") is rule.find("The answer is  .") is AnswerRule("(a)|b").find("b") is None
    assert AnswerRule(r"(?s).*#(\d)").find("#1\n#2") == "2"
    rule = AnswerRule("(x)", stop=("\nQuestion:", "##"))
    texts = {"a ## b\nQuestion:": "a ", "\nQuestion: ##": "", "a # b": None}
    assert {text: rule.before_stop(text) for text in texts} == texts
    assert AnswerRule("(x)").before_stop("a") is None


def test_task_files_say_how_answers_are_found(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "a.toml").write_text(
        'corpus = "a.jsonl"\nprompt = "{text}"\ncompletion = " {text}"\n'
        'answer = "last number"\nstop = ["\\nQuestion:"]\nshots = 2\nexamples = "b.jsonl"\n'
    )
    task = parse_task(f"a={tmp_path / 'a.toml'}")
    assert task.answer == AnswerRule(LAST_NUMBER, ("\nQuestion:",), 2, tmp_path / "b.jsonl")
    assert [sample.text for sample in task.texts()] == ["one one"]
    assert parse_task(f"a={tmp_path / 'a.jsonl'}").answer is None
