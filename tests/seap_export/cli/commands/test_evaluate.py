"""`seap-export evaluate` on micro models."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.conversations import write_records
from support.corpora import micro_texts
from support.estimates import without_texts
from support.exports import Run
from support.models import greedy_completions

from seap_export.corpus import text_digest
from validation.reports import schema

QUESTION = 'corpus = "quiz.jsonl"\nprompt = "{text}"\n'
CHOICES = '[completion]\nchoices = [" {one}", " {two}"]\nlabel = "label"\n'
STEPS = 8
SHORT = ("--max-new-tokens", STEPS)
ANSWER = 'completion = " {two}"\nanswer = "(\\\\S+)"\n'


@pytest.fixture
def quiz(work: Path) -> Path:
    """A task file of 12 questions that nothing was calibrated on."""
    choices = {"one": "the cat sat", "two": "a dog ran far"}
    texts = enumerate(micro_texts(12, seed=77))
    write_records(work / "quiz.jsonl", [{"text": text, **choices, "label": index % 2} for index, text in texts])
    (work / "quiz.toml").write_text(QUESTION + CHOICES)
    return work / "quiz.toml"


def _report(run: Run, *arguments: object, code: int = 0) -> dict[str, Any]:
    outcome = run("evaluate", *arguments, "--threads", "1", "--json", "--quiet")
    assert outcome.code == code, outcome.err
    report: dict[str, Any] = json.loads(outcome.out)
    return report


def test_divergence_and_accuracy_of_both_forms(run: Run, quiz: Path) -> None:
    ratios = ("--ratio", "0", "--ratio", "0.2")
    words = ("--task", "a=a.jsonl", *ratios, "--precision", "fp32", "--out", "out", "--quiet")
    assert run("export", "m", *words).code == 0
    whole = _report(run, "out/a-0", "--dense", "m", "--runtime", "torch", "--max-kl", "1e-9")["divergence"]["hf"]
    assert (whole["mean_kl_nats"], whole["top1_agreement"]) == (0.0, 1.0)
    assert whole["perplexity"] == whole["dense_perplexity"]

    both = ("--runtime", "torch", "--runtime", "onnxruntime", "--zero-shot", "quiz=quiz.toml")
    report = _report(run, "out/a-0.2", "--dense", "m", *both)
    described = {"variant": "a-0.2", "task": "a", "requested_ratio": 0.2, "compensation": "sequential"}
    assert described.items() <= report.items()
    hf, onnx = report["divergence"]["hf"], report["divergence"]["onnx"]
    assert {*hf, "vocabulary"} == set(schema()["$defs"]["Divergence"]["properties"])
    assert hf["mean_kl_nats"] > 1e-3
    assert hf["kl_nats_per_byte"] * hf["bytes"] == pytest.approx(hf["mean_kl_nats"] * hf["tokens"])
    (more,) = report["kl_difference"].values()
    assert more["mean"] == pytest.approx(onnx["mean_kl_nats"] - hf["mean_kl_nats"], abs=1e-12)
    assert 0 <= more["stderr"] < hf["mean_kl_nats_stderr"] / 100
    texts, onnx_texts = hf["kl_nats_by_text"], onnx["kl_nats_by_text"]
    assert len(texts) == report["texts"]["count"]
    assert sum(tokens for _, tokens in texts) == hf["tokens"]
    assert [tokens for _, tokens in onnx_texts] == [tokens for _, tokens in texts]
    median, p99, p999 = (hf[f"{name}_kl_nats"] for name in ("median", "p99", "p999"))
    assert 0 < median < p99 < p999 <= hf["max_kl_nats"]
    assert without_texts(onnx) == pytest.approx(without_texts(hf), rel=1e-2)
    answers = report["zero_shot"]
    assert list(answers) == ["dense", "hf", "onnx"]
    assert answers["onnx"] == answers["hf"]
    assert (answers["dense"]["quiz"]["questions"], answers["dense"]["quiz"]["chance"]) == (12, 0.5)
    assert report["texts"]["origin"] == "held-out"
    assert (report["texts"]["count"], report["texts"]["seeds"], report["texts"]["disjoint"]) == (16, [0], True)
    assert (report["tasks"]["quiz"]["origin"], report["tasks"]["quiz"]["disjoint"]) == ("file", True)
    assert (report["verdict"], report["reasons"], report["notes"]) == (None, [], [])
    assert report["accuracy_difference"].keys() == {"hf", "onnx"}


def test_the_report_has_the_same_bytes_again_and_no_paths(run: Run, done: Path, quiz: Path, work: Path) -> None:
    command = ("evaluate", "out/a-0.2", "--dense", "m", "--zero-shot", "quiz=quiz.toml", "--threads", "1", "-q")
    assert run(*command, "--out", "one.json").code == 0
    shutil.copytree(work / "out", work / "elsewhere")
    moved = [str(argument).replace("out/", "elsewhere/") for argument in command]
    assert run(*moved, "--out", "two.json").code == 0
    assert (work / "one.json").read_bytes() == (work / "two.json").read_bytes()
    assert str(work) not in (work / "one.json").read_text()

    run(*command, "--out", "one.json").refused(2, "one.json already exists; ")
    assert run(*command, "--out", "one.json", "--force").code == 0


def test_the_gate_fails_after_the_report_was_written(run: Run, done: Path, work: Path) -> None:
    command = ("evaluate", "out/a-0.4", "--dense", "m", "--max-kl", "1e-6", "--threads", "1", "--out", "report.json")
    outcome = run(*command)
    assert outcome.code == 4
    report = json.loads((work / "report.json").read_text())
    assert report["verdict"] == "failed"
    assert outcome.err.splitlines()[-1] == f"Error: out/a-0.4: {report['reasons'][0]}"
    assert outcome.out.startswith("a-0.4: task a, ratio ")
    error = _report(run, *command[1:4], "--max-kl", "1e-6", code=4)
    assert error["error"]["exit_code"] == 4
    assert error["report"] == report


def test_texts_of_ones_own(run: Run, done: Path, work: Path) -> None:
    report = _report(run, "out/a-0.2", "--dense", "m", "--text", "b=b.jsonl", "--limit", "5")
    texts = report["texts"]
    assert (texts["origin"], texts["tasks"], texts["count"], texts["disjoint"]) == ("file", ["b"], 5, True)
    shutil.move(done / "calibration", work / "calibration")
    run("evaluate", "out/a-0.2", "--dense", "m", "--threads", "1", "-q").refused(7, "held-out texts")
    outcome = run("evaluate", "out/a-0.2", "--dense", "m", "--text", "b=b.jsonl", "--limit", "5", "-q")
    assert outcome.code == 0
    assert outcome.err.startswith("Warning: the calibration folder is missing")


@pytest.mark.parametrize(("option", "completion"), [("--zero-shot", CHOICES), ("--generate", ANSWER)])
def test_calibrated_questions_are_refused(run: Run, done: Path, work: Path, option: str, completion: str) -> None:
    """A question counts by its prompt and right choice or answer, the text that calibration uses."""
    calibrated = set(json.loads((done / "calibration" / "a" / "calibration.json").read_text())["calibration_texts"])
    texts = [json.loads(line)["text"] for line in (work / "a.jsonl").read_text().splitlines()]
    prompt, _, last = next(text for text in texts if text_digest(text) in calibrated).rpartition(" ")
    write_records(work / "quiz.jsonl", [{"text": prompt, "one": "nothing", "two": last, "label": 1}])
    (work / "quiz.toml").write_text(QUESTION + completion)
    for extra in ((), ("--dry-run",)):
        outcome = run("evaluate", "out/a-0.2", option, "quiz=quiz.toml", "-q", *extra)
        outcome.refused(8, "task 'quiz': 1 of the 1 evaluated texts ")


@pytest.fixture
def one_harness_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading all of the harness's tasks takes seconds, and `tests/seap_export/corpus/test_hub.py` does."""
    from lm_eval.tasks import TaskManager

    folder = tmp_path / "harness"
    folder.mkdir()
    (folder / "piqa.yaml").write_text("task: piqa\ndataset_path: piqa\n", "utf-8")
    few = partial(TaskManager, include_path=str(folder), include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)


@pytest.mark.usefixtures("one_harness_task")
def test_a_dry_run_measures_and_writes_nothing(run: Run, done: Path, quiz: Path, work: Path) -> None:
    (work / "asked.toml").write_text(QUESTION + ANSWER)
    command = (
        "evaluate", "out/a-0.2", "--dense", "m", "--zero-shot", "quiz=quiz.toml", "--harness-task", "piqa",
        "--generate", "asked=asked.toml", "--dry-run", "--out", "report.json",
    )  # fmt: skip
    rows = json.loads(run(*command, "--json").out)["planned"]
    assert [(row["measurement"], row["name"], row["items"], row["disjoint"]) for row in rows] == [
        ("divergence", "a", 16, True), ("zero-shot", "quiz", 12, True), ("zero-shot", "piqa", None, None),
        ("generation", "asked", 12, True),
    ]  # fmt: skip
    assert {tuple(row["models"]) for row in rows} == {("dense", "onnx")}
    assert run(*command).out.splitlines()[1].split()[:2] == ["divergence", "a"]
    assert not (work / "report.json").exists()
    run(*command[:4], "--harness-task", "nonsense", "-q").refused(2, "has no task 'nonsense'")


@pytest.fixture
def asked(work: Path) -> list[str]:
    """Ten questions in `asked.toml`: the dense model is right in eight; what answers the others, nobody gives."""
    texts = micro_texts(10, seed=77)
    golds = [(each.text.split() or ["none"])[0] for each in greedy_completions(work / "m", texts, STEPS)]
    golds[3] = golds[6] = "planted"
    write_records(work / "asked.jsonl", [{"text": text, "two": gold} for text, gold in zip(texts, golds, strict=True)])
    (work / "asked.toml").write_text(QUESTION.replace("quiz", "asked") + ANSWER)
    return golds


def test_exact_match_of_dense_and_both_forms(run: Run, done: Path, asked: list[str]) -> None:
    fp32 = ("--precision", "fp32", "--out", "out/a-0.4/onnx", "--force", "-q")
    assert run("convert", "out/a-0.4/hf", *fp32).code == 0
    both = ("--runtime", "torch", "--runtime", "onnxruntime")
    words = ("out/a-0.4", "--dense", "m", *SHORT, "--generate", "asked=asked.toml")
    report = _report(run, *words, *both, "--limit", "10")
    generation = report["generation"]
    assert list(generation) == ["dense", "hf", "onnx"]
    dense, hf = generation["dense"]["asked"], generation["hf"]["asked"]
    right = 8 - asked.count("none")
    assert (dense["questions"], dense["exact_match"]) == (10, pytest.approx(right / 10))
    assert generation["onnx"]["asked"] == hf
    assert [sample["gold"] for sample in hf["samples"]] == asked[:3]
    flips = report["flipped"]["hf"]["asked"]
    assert flips["wrong_to_right"] == 0
    assert right - flips["right_to_wrong"] == round(10 * hf["exact_match"])
    assert report["accuracy_retained"]["hf"]["asked"] == pytest.approx(hf["exact_match"] / dense["exact_match"])
    origin = report["tasks"]["asked"]
    assert (origin["origin"], origin["disjoint"], origin["num_fewshot"]) == ("file", True, 0)
    assert (report["max_new_tokens"], report["zero_shot"], report["limit"]) == (STEPS, {}, 10)
    assert _report(run, *words, "--min-accuracy-retained", "0")["verdict"] == "passed"
    message = _report(run, *words, "--min-accuracy-retained", "100", code=4)["error"]["message"]
    assert re.search("onnx: asked retains .* of exact match, below 10000.00%", message)


def test_all_answers_are_written(run: Run, done: Path, work: Path, asked: list[str]) -> None:
    command = ("out/a-0.4", "--dense", "m", *SHORT, "--generate", "asked=asked.toml")
    generation = _report(run, *command, "--answers", "answers.jsonl")["generation"]
    answers = [json.loads(line) for line in (work / "answers.jsonl").read_text().splitlines()]
    assert [(answer["model"], answer["task"], answer["gold"]) for answer in answers] == [
        (model, "asked", gold) for model in ("dense", "onnx") for gold in asked
    ]
    prompts = [json.loads(line)["text"] for line in (work / "asked.jsonl").read_text().splitlines()]
    assert [answer["prompt"] for answer in answers] == prompts * 2
    for answer, written in zip(answers[:10], greedy_completions(work / "m", prompts, STEPS), strict=True):
        assert (answer["completion"], answer["stopped"]) == (written.text, written.is_ended)
    for model in ("dense", "onnx"):
        right = [answer["right"] for answer in answers if answer["model"] == model]
        assert right == [answer["found"] == answer["gold"] for answer in answers if answer["model"] == model]
        assert sum(right) / 10 == pytest.approx(generation[model]["asked"]["exact_match"])
