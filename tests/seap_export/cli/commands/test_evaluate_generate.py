"""`seap-export evaluate --generate` on micro models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.corpora import micro_texts
from support.exports import Run
from support.models import greedy_completions

TASK = 'corpus = "quiz.jsonl"\nprompt = "{text}"\ncompletion = " {answer}"\nanswer = "(\\\\S+)"\n'
STEPS = 8


@pytest.fixture
def quiz(work: Path) -> list[str]:
    """Ten questions: the dense model is right in eight, the others have an answer that nobody gives."""
    texts = micro_texts(10, seed=77)
    words_of_model = [
        completion.text.split()[0] if completion.text.split() else "none"
        for completion in greedy_completions(work / "m", texts, STEPS)
    ]
    golds = ["planted" if index in (3, 6) else gold for index, gold in enumerate(words_of_model)]
    records = [{"text": text, "answer": gold} for text, gold in zip(texts, golds, strict=True)]
    (work / "quiz.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (work / "quiz.toml").write_text(TASK)
    return golds


def _report(run: Run, *arguments: object, code: int = 0) -> dict[str, Any]:
    options = ("--max-new-tokens", STEPS, "--threads", "1", "--json", "--quiet")
    outcome = run("evaluate", *arguments, *options)
    assert outcome.code == code, outcome.err
    report: dict[str, Any] = json.loads(outcome.out)
    return report


def test_exact_match_of_dense_and_both_forms(run: Run, done: Path, quiz: list[str]) -> None:
    fp32 = ("--precision", "fp32", "--out", "out/a-0.4/onnx", "--force", "-q")
    assert run("convert", "out/a-0.4/hf", *fp32).code == 0
    both = ("--runtime", "torch", "--runtime", "onnxruntime")
    report = _report(run, "out/a-0.4", "--dense", "m", *both, "--generate", "quiz=quiz.toml", "--limit", "10")
    generation = report["generation"]
    assert list(generation) == ["dense", "hf", "onnx"]
    dense, hf = generation["dense"]["quiz"], generation["hf"]["quiz"]
    right = 8 - quiz.count("none")
    assert (dense["questions"], dense["exact_match"]) == (10, pytest.approx(right / 10))
    assert generation["onnx"]["quiz"] == hf
    assert [sample["gold"] for sample in hf["samples"]] == quiz[:3]
    flips = report["flipped"]["hf"]["quiz"]
    assert flips["wrong_to_right"] == 0
    assert right - flips["right_to_wrong"] == round(10 * hf["exact_match"])
    assert report["accuracy_retained"]["hf"]["quiz"] == pytest.approx(hf["exact_match"] / dense["exact_match"])
    origin = report["tasks"]["quiz"]
    assert (origin["origin"], origin["disjoint"], origin["num_fewshot"]) == ("file", True, 0)
    assert (report["max_new_tokens"], report["zero_shot"], report["limit"]) == (STEPS, {}, 10)


def test_all_answers_are_written(run: Run, done: Path, work: Path, quiz: list[str]) -> None:
    command = ("out/a-0.4", "--dense", "m", "--generate", "quiz=quiz.toml")
    generation = _report(run, *command, "--answers", "answers.jsonl")["generation"]
    answers = [json.loads(line) for line in (work / "answers.jsonl").read_text().splitlines()]
    assert [(answer["model"], answer["task"], answer["gold"]) for answer in answers] == [
        (model, "quiz", gold) for model in ("dense", "onnx") for gold in quiz
    ]
    prompts = [json.loads(line)["text"] for line in (work / "quiz.jsonl").read_text().splitlines()]
    assert [answer["prompt"] for answer in answers] == prompts * 2
    for answer, written in zip(answers[:10], greedy_completions(work / "m", prompts, STEPS), strict=True):
        assert (answer["completion"], answer["stopped"]) == (written.text, written.is_ended)
    for model in ("dense", "onnx"):
        right = [answer["right"] for answer in answers if answer["model"] == model]
        assert right == [answer["found"] == answer["gold"] for answer in answers if answer["model"] == model]
        assert sum(right) / 10 == pytest.approx(generation[model]["quiz"]["exact_match"])


def test_exact_match_is_gated(run: Run, done: Path, quiz: list[str]) -> None:
    command = ("out/a-0.4", "--dense", "m", "--generate", "quiz=quiz.toml", "--min-accuracy-retained")
    assert _report(run, *command, "0")["verdict"] == "passed"
    error = _report(run, *command, "100", code=4)
    assert "onnx: quiz retains " in error["error"]["message"]
    assert "of exact match, below 10000.00%" in error["error"]["message"]
