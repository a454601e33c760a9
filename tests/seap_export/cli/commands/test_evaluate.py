"""`seap-export evaluate` on micro models."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.corpora import micro_texts
from support.estimates import without_texts
from support.exports import Run

from seap_export.corpus import text_digest
from validation.reports import schema

QUESTION = 'corpus = "quiz.jsonl"\nprompt = "{text}"\n'
CHOICES = '[completion]\nchoices = [" {one}", " {two}"]\nlabel = "label"\n'
ANSWER = 'completion = " {two}"\nanswer = "(\\\\S+)"\n'


@pytest.fixture
def quiz(work: Path) -> Path:
    """A task file of 12 questions that nothing was calibrated on."""
    records = [
        {"text": text, "one": "the cat sat", "two": "a dog ran far", "label": index % 2}
        for index, text in enumerate(micro_texts(12, seed=77))
    ]
    (work / "quiz.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
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
    assert report["schema"] == "seap-export/evaluation/2"
    assert (report["variant"], report["task"], report["score"]) == ("a-0.2", "a", "elimination")
    assert (report["requested_ratio"], report["compensation"]) == (0.2, "sequential")
    hf, onnx = report["divergence"]["hf"], report["divergence"]["onnx"]
    described = schema()["$defs"]["divergence"]["properties"]
    assert {*hf, "vocabulary"} == set(described)
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
    record = {"text": prompt, "one": "nothing", "two": last, "label": 1}
    (work / "quiz.jsonl").write_text(json.dumps(record) + "\n")
    (work / "quiz.toml").write_text(QUESTION + completion)
    for extra in ((), ("--dry-run",)):
        run("evaluate", "out/a-0.2", option, "quiz=quiz.toml", "-q", *extra).refused(
            8, "task 'quiz': 1 of the 1 evaluated texts "
        )


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


@pytest.mark.usefixtures("one_harness_task")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("out", "--dense", "m"), 2, "give a variant in it, such as out/a-0."),
        (("out/a-0.2",), 2, "nothing to evaluate; give --dense MODEL for the divergence, or a task: --zero-shot"),
        (("out/a-0.2", "--dense", "m", "--zero-shot", "a=a.jsonl"), 8, "choices"),
        (("out/a-0.2", "--text", "b=b.jsonl", "--zero-shot", "q=quiz.toml"), 2, "give --dense MODEL"),
        (("out/a-0.2", "--dense", "m", "--harness-task", "nonsense"), 2, "has no task 'nonsense'"),
    ],
)  # fmt: skip
def test_bad_requests_are_one_line(
    run: Run, done: Path, quiz: Path, work: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    outcome = run("evaluate", *arguments, "--out", "report.json", "-q")
    outcome.refused(code, message)
    assert outcome.out == ""
    assert not (work / "report.json").exists()
