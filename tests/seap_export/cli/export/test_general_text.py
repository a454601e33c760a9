"""What an export shows of each variant on the texts of every task and on a general text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.corpora import micro_texts
from support.exports import Run, run_here
from support.product import GENERAL_TEXT, MOST_TEXTS

from seap_export.common.json_file import read_json

TASKS = ("--task", "a=a.jsonl", "--task", "b=b.jsonl")
SMALL = ("--ratio", "0.4", "--set", "router=false", "--out", "out")
EXPORT = ("export", "m", *TASKS, *SMALL, "--quality")
COLUMNS = ["a", "b", GENERAL_TEXT]


@pytest.fixture(scope="module")
def once(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of `EXPORT`, and what it printed; not to be changed."""
    out = tmp_path_factory.mktemp("elsewhere") / "out"
    tasks = ("--task", f"a={inputs / 'a.jsonl'}", "--task", f"b={inputs / 'b.jsonl'}")
    outcome = run_here("export", inputs / "m", *tasks, *SMALL[:-1], out, "--quality")
    assert outcome.code == 0, outcome.err
    return out, outcome.out


@pytest.fixture
def out(once: tuple[Path, str], work: Path) -> Path:
    """A copy of it at ./out."""
    return Path(shutil.copytree(once[0], work / "out"))


def _cells(out: Path, variant: str) -> dict[str, Any]:
    cells: dict[str, Any] = read_json(out / variant / "quality.json")["elsewhere"]["onnx"]
    return cells


def _held_out(out: Path, task: str) -> list[str]:
    samples = read_json(out / "calibration" / task / "calibration.json")["held_out"]
    return [sample["prompt"] + sample["completion"] for sample in samples]


def test_every_variant_is_measured_on_every_task_and_the_general_text(out: Path) -> None:
    for task in ("a", "b"):
        cells = _cells(out, f"{task}-0.4")
        assert list(cells) == COLUMNS
        assert {name: cell["own"] for name, cell in cells.items()} == {name: name == task for name in COLUMNS}
        assert [cell["texts"] for cell in cells.values()] == [MOST_TEXTS] * 3
    one, other = _cells(out, "a-0.4"), _cells(out, "b-0.4")
    for name in COLUMNS:  # the same texts, and so the same dense model
        for key in ("sha256", "tokens", "bytes", "dense_bits_per_byte"):
            assert one[name][key] == other[name][key]
        assert one[name]["mean_kl_nats"] != other[name]["mean_kl_nats"]


def test_the_figures_are_those_of_evaluate(run: Run, out: Path, work: Path) -> None:
    """On the same texts, given as a file."""
    texts = _held_out(out, "b")[:MOST_TEXTS]
    (work / "few.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    words = ("evaluate", out / "a-0.4", "--dense", "m", "--runtime", "onnxruntime", "--text", "b=few.jsonl", "--json")
    divergence = json.loads(run(*words).out)["divergence"]["onnx"]
    cell = _cells(out, "a-0.4")["b"]
    for key in ("mean_kl_nats", "tokens", "bits_per_byte", "dense_bits_per_byte", "bytes"):
        assert cell[key] == pytest.approx(divergence[key], rel=1e-6)


def test_a_task_that_is_added_is_measured_with_the_variants_that_are_made_again(run: Run, work: Path) -> None:
    """A task of its own gets a column; what the export does not name keeps its figures until it is named."""
    words = (*SMALL, "--quality")
    assert run("export", "m", *TASKS[:2], *words).code == 0
    assert list(_cells(work / "out", "a-0.4")) == ["a", GENERAL_TEXT]
    outcome = run("export", "m", *TASKS[2:], *words)
    assert outcome.code == 0, outcome.err
    assert list(_cells(work / "out", "b-0.4")) == COLUMNS
    assert list(_cells(work / "out", "a-0.4")) == ["a", GENERAL_TEXT]
    kept = (work / "out" / "b-0.4" / "quality.json").read_bytes()
    assert run(*EXPORT).code == 0
    assert list(_cells(work / "out", "a-0.4")) == COLUMNS
    assert (work / "out" / "b-0.4" / "quality.json").read_bytes() == kept
    assert run("validate", "out", "-q").code == 0


def test_the_general_text_may_be_given(run: Run, out: Path, work: Path) -> None:
    """Without the texts that were calibrated on; another one is another column of texts."""
    before = _cells(out, "a-0.4")
    other = micro_texts(12, 99)
    corpus = [*_calibrated(work / "a.jsonl", out), *other]
    (work / "g.txt").write_text("\n\n".join(corpus), "utf-8")
    assert run(*EXPORT, "--set", "general_text=g.txt").code == 0
    after = _cells(out, "a-0.4")
    assert after[GENERAL_TEXT]["sha256"] != before[GENERAL_TEXT]["sha256"]
    assert {name: after[name] for name in "ab"} == {name: before[name] for name in "ab"}
    (work / "same.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in other), "utf-8")
    kept = (out / "a-0.4" / "quality.json").read_bytes()
    assert run(*EXPORT, "--set", "general_text=same.jsonl").code == 0
    assert (out / "a-0.4" / "quality.json").read_bytes() == kept


def _calibrated(corpus: Path, out: Path) -> list[str]:
    texts = [json.loads(line)["text"] for line in corpus.read_text("utf-8").splitlines()]
    return [text for text in texts if text not in _held_out(out, "a")]


def test_a_general_text_that_cannot_be_used_is_refused_before_any_work(run: Run, work: Path) -> None:
    run(*EXPORT, "--set", "general_text=none.txt").refused(2, "general_text", "none.txt")
    texts = [json.loads(line)["text"] for line in (work / "a.jsonl").read_text("utf-8").splitlines()]
    (work / "one.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:40]))
    words = ("export", "m", "--task", "a=one.jsonl", *SMALL, "--quality", "--set", "held_out=1")
    held_out = json.loads(run(*words, "--dry-run", "--json").out)["variants"][0]["held_out_texts"]
    assert held_out == 1
    (work / "g.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:2]))
    outcomes = [
        run(*words, "--set", "seed=" + str(seed), "--set", "general_text=g.jsonl", "--dry-run", "-q")
        for seed in (0, 1)
    ]
    refused = [outcome for outcome in outcomes if outcome.code]
    assert refused, "both texts are calibrated on, unless one is held out"
    refused[0].refused(8, "general text", "g.jsonl")
    assert not (work / "out").exists()
