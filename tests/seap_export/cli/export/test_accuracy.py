"""The accuracy of an export's files on held-out questions, where a task file says what is right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.conversations import write_records
from support.corpora import WORDS
from support.exports import Run

from seap_export.common.json_file import read_json
from validation.reports import schema

EXPORT = ("export", "m", "--ratio", "0.4", "--precision", "fp32", "--out", "out", "--quality", "--set", "held_out=8")
QUIZ = ("--task", "quiz=quiz.toml")


@pytest.fixture
def quiz(work: Path) -> None:
    """Questions with two choices, of which the first is right, and with an answer that is found by a pattern."""
    words = list(dict.fromkeys(WORDS))
    pairs = [(one, other) for one in words for other in words if one < other][:40]
    write_records(work / "quiz.jsonl", [{"ask": f"{a} or {b}", "a": a, "b": b, "right": 0} for a, b in pairs])
    choices = '[completion]\nchoices = [" {a}", " {b}"]\nlabel = "right"\n'
    (work / "quiz.toml").write_text(f'corpus = "quiz.jsonl"\nprompt = "{{ask}}"\n{choices}', "utf-8")
    rule = 'completion = " {a}"\nanswer = "([a-z]+)"\n'
    (work / "open.toml").write_text(f'corpus = "quiz.jsonl"\nprompt = "{{ask}} {{b}}"\n{rule}', "utf-8")


def result(run: Run, *arguments: object) -> dict[str, Any]:
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    values: dict[str, Any] = json.loads(outcome.out)
    return values


@pytest.mark.usefixtures("quiz")
def test_held_out_questions_are_asked_of_every_file(run: Run, work: Path) -> None:
    found = result(run, *EXPORT, *QUIZ)["recommended"]["quiz"]
    assert {file["name"]: file["accuracy"]["quiz"]["questions"] for file in found["files"]} == {
        "quiz-0.4/onnx": 8, "quiz-whole-int8": 8, "quiz-whole-int4": 8,
    }  # fmt: skip
    report = read_json(work / "out" / "validation.json")
    Draft202012Validator(schema()).validate(report)
    recorded = report["variants"]["quiz-0.4"]["quality"]["zero_shot"]
    command = ("evaluate", "out/quiz-0.4", "--dense", "m", "--zero-shot", "held=held.toml", "--runtime", "onnxruntime")
    (work / "held.toml").write_text((work / "quiz.toml").read_text().replace("quiz.jsonl", "held.jsonl"))
    held = read_json(work / "out" / "calibration" / "quiz" / "calibration.json")["held_out"]
    asked = {sample["prompt"] for sample in held}
    rows = [json.loads(line) for line in (work / "quiz.jsonl").read_text().splitlines()]
    write_records(work / "held.jsonl", [row for row in rows if row["ask"] in asked])
    evaluated = result(run, *command)["zero_shot"]
    for form in ("dense", "onnx"):
        assert evaluated[form]["held"] == pytest.approx(recorded[form]["quiz"])
    outcome = run(*EXPORT, *QUIZ)
    assert "right" in outcome.out.splitlines()[0]
    line = next(line for line in outcome.out.splitlines() if line.startswith("quiz-0.4/onnx "))
    share = found["files"][-1]["accuracy"]["quiz"]
    assert f"{8 * share['share']:g} of 8 " in line
    assert f"  dense {8 * share['dense']:g} " in line
    assert result(run, "inspect", "out")["variants"]["quiz-0.4"]["accuracy"]["onnx"] == found["files"][-1]["accuracy"]
    assert f"right: {8 * share['share']:g} of 8 (" in run("inspect", "out/quiz-0.4").out
    assert '<th scope="col">Right</th>' in (work / "out" / "validation.html").read_text("utf-8")


@pytest.mark.usefixtures("quiz")
def test_the_gate_judges_what_was_measured(run: Run, work: Path) -> None:
    both = ("--format", "onnx:fp32", "--format", "onnx:int8", "--set", "router=false")
    assert run(*EXPORT[:4], *both, *EXPORT[6:], "--task", "open=open.toml", *QUIZ).code == 0
    recorded = read_json(work / "out" / "validation.json")["variants"]
    assert recorded["open-0.4"]["quality"]["generation"]["onnx"]["open"]["questions"] == 8
    retained = recorded["quiz-0.4"]["quality"]["accuracy_retained"]["onnx"]["quiz"]
    words = ("validate", "out/quiz-0.4", "--check", "quality", "--min-accuracy-retained")
    assert run(*words, retained).code == 0
    run(*words, retained + 0.01, "-q").refused(4, "quality of the answers of onnx", "quiz retains")
    judged = json.loads(run(*words, 0, "--max-kl", "99", "--dense", "m", "--json").out)
    subjects = [check["subject"] for check in judged["checks"]]
    assert subjects == ["onnx", "onnx-int8", "the answers of onnx", "the answers of onnx-int8"]
    assert judged["variants"]["quiz-0.4"]["quality"]["accuracy_retained"]["onnx"]["quiz"] == retained
    run(*words, "-1", "-q").refused(2, "--min-accuracy-retained", "0 or more")


@pytest.mark.usefixtures("quiz")
def test_an_export_may_be_held_to_it(run: Run, work: Path) -> None:
    """The limit is a gate, decides what is recommended, and is written into the settings of the variant."""
    least = ("--min-accuracy-retained", "0")
    found = result(run, *EXPORT, *QUIZ, *least)["recommended"]["quiz"]
    assert (found["rule"], found["limits"]["min_accuracy_retained"]) == ("limits", 0.0)
    smallest = min(found["files"], key=lambda file: file["bytes"])["name"]
    assert found["file"] == smallest
    assert "min_accuracy_retained = 0.0" in (work / "out" / "quiz-0.4" / "hf" / "recipe.toml").read_text("utf-8")
    outcome = run(*EXPORT, *QUIZ, "--min-accuracy-retained", "99", "-q")
    assert (outcome.code, "quality of the answers of onnx: onnx: quiz retains" in outcome.err) == (4, True)
    assert read_json(work / "out" / "validation.json")["recommended"]["quiz"]["file"] is None
    run(*EXPORT, *QUIZ, "--min-accuracy-retained", "-1").refused(2, "--min-accuracy-retained", "0 or more")
    run(*EXPORT, *QUIZ, *least, "--no-quality").refused(2, "--no-quality", "--min-accuracy-retained")
    run(*EXPORT, "--task", "a=a.jsonl", *least).refused(2, "--min-accuracy-retained", "a does not say")
