"""The accuracy of an export's files on held-out questions, where a task file says what is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.conversations import write_records
from support.corpora import WORDS
from support.exports import Outcome, Run

from seap_export.common.json_file import read_json
from validation.reports import schema

EXPORT = ("export", "m", "--ratio", "0.4", "--out", "out", "--quality", "--set", "held_out=8", "--set", "router=false")
QUIZ = ("--task", "quiz=quiz.toml", "--format", "onnx:fp32", "--format", "onnx:int8")


@pytest.fixture(scope="module")
def once(place: Path, done_in: Callable[..., Outcome]) -> Path:
    """A folder with an export for two kinds of questions; not to be changed.

    One has two choices, of which the first is right, and one an answer that is found by a pattern.
    """
    words = list(dict.fromkeys(WORDS))
    pairs = [(one, other) for one in words for other in words if one < other][:40]
    write_records(place / "quiz.jsonl", [{"ask": f"{a} or {b}", "a": a, "b": b, "right": 0} for a, b in pairs])
    choices = '[completion]\nchoices = [" {a}", " {b}"]\nlabel = "right"\n'
    (place / "quiz.toml").write_text(f'corpus = "quiz.jsonl"\nprompt = "{{ask}}"\n{choices}', "utf-8")
    rule = 'completion = " {a}"\nanswer = "([a-z]+)"\n'
    (place / "open.toml").write_text(f'corpus = "quiz.jsonl"\nprompt = "{{ask}} {{b}}"\n{rule}', "utf-8")
    done_in(place, *EXPORT, *QUIZ, "--task", "open=open.toml")
    return place


def test_held_out_questions_are_asked_of_every_file(run: Run, result: Callable[..., Any], home: Path) -> None:
    report = read_json(home / "out" / "validation.json")
    Draft202012Validator(schema()).validate(report)
    found = result(*EXPORT, *QUIZ)["recommended"]["quiz"]
    files = {file["name"]: file["accuracy"]["quiz"] for file in found["files"]}
    assert {name: accuracy["questions"] for name, accuracy in files.items()} == {
        "quiz-0.4/onnx": 8, "quiz-0.4/onnx-int8": 8, "quiz-whole-int8": 8, "quiz-whole-int4": 8,
    }  # fmt: skip
    assert report["variants"]["open-0.4"]["quality"]["generation"]["onnx"]["open"]["questions"] == 8
    recorded = report["variants"]["quiz-0.4"]["quality"]["zero_shot"]
    command = ("evaluate", "out/quiz-0.4", "--dense", "m", "--zero-shot", "held=held.toml", "--runtime", "onnxruntime")
    (home / "held.toml").write_text((home / "quiz.toml").read_text().replace("quiz.jsonl", "held.jsonl"))
    held = read_json(home / "out" / "calibration" / "quiz" / "calibration.json")["held_out"]
    asked = {sample["prompt"] for sample in held}
    rows = [json.loads(line) for line in (home / "quiz.jsonl").read_text().splitlines()]
    write_records(home / "held.jsonl", [row for row in rows if row["ask"] in asked])
    evaluated = result(*command)["zero_shot"]
    for form in ("dense", "onnx"):
        assert evaluated[form]["held"] == pytest.approx(recorded[form]["quiz"])
    outcome = run(*EXPORT, *QUIZ)
    line = next(line for line in outcome.out.splitlines() if line.startswith("quiz-0.4/onnx "))
    share = files["quiz-0.4/onnx"]
    assert f"{8 * share['share']:g} of 8 " in line
    assert f"  dense {8 * share['dense']:g} " in line
    assert result("inspect", "out")["variants"]["quiz-0.4"]["accuracy"]["onnx"]["quiz"] == share
    assert f"right: {8 * share['share']:g} of 8 (" in run("inspect", "out/quiz-0.4").out
    assert '<th scope="col">Right</th>' in (home / "out" / "validation.html").read_text("utf-8")


def test_the_gate_judges_what_was_measured(run: Run, result: Callable[..., Any], home: Path) -> None:
    recorded = read_json(home / "out" / "validation.json")["variants"]
    retained = recorded["quiz-0.4"]["quality"]["accuracy_retained"]["onnx"]["quiz"]
    words = ("validate", "out/quiz-0.4", "--check", "quality", "--min-accuracy-retained")
    assert run(*words, retained).code == 0
    run(*words, retained + 0.01, "-q").refused(4, "quality of the answers of onnx", "quiz retains")
    judged = result(*words, 0, "--max-kl", "99", "--dense", "m")
    subjects = [check["subject"] for check in judged["checks"]]
    assert subjects == ["onnx", "onnx-int8", "the answers of onnx", "the answers of onnx-int8"]
    assert judged["variants"]["quiz-0.4"]["quality"]["accuracy_retained"]["onnx"]["quiz"] == retained


def test_an_export_may_be_held_to_it(run: Run, result: Callable[..., Any], home: Path) -> None:
    """The limit is a gate, decides what is recommended, and is written into the settings of the variant."""
    least = ("--min-accuracy-retained", "0")
    found = result(*EXPORT, *QUIZ, *least)["recommended"]["quiz"]
    assert (found["rule"], found["limits"]["min_accuracy_retained"]) == ("limits", 0.0)
    smallest = min(found["files"], key=lambda file: file["bytes"])["name"]
    assert found["file"] == smallest
    assert "min_accuracy_retained = 0.0" in (home / "out" / "quiz-0.4" / "hf" / "recipe.toml").read_text("utf-8")
    outcome = run(*EXPORT, *QUIZ, "--min-accuracy-retained", "99", "-q")
    assert (outcome.code, "quality of the answers of onnx: onnx: quiz retains" in outcome.err) == (4, True)
    assert read_json(home / "out" / "validation.json")["recommended"]["quiz"]["file"] is None
    run(*EXPORT, *QUIZ, "--min-accuracy-retained", "-1").refused(2, "--min-accuracy-retained", "0 or more")
    run(*EXPORT, *QUIZ, *least, "--no-quality").refused(2, "--no-quality", "--min-accuracy-retained")
    run(*EXPORT, "--task", "a=a.jsonl", *least).refused(2, "--min-accuracy-retained", "a does not say")
