"""`fresh_tokens` in a recipe: variants that learn from what the dense model writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.conversations import conversations, write_chat_model, write_records
from support.exports import times_of_writing
from support.product import read_tokens

Run = Callable[..., Any]
RECIPE = ("--recipe", "fresh.toml", "--set", "held_out=4", "--no-quality", "--no-speed", "--format", "hf")
EXPORT = ("export", "m", "--task", "a=a.jsonl", "--ratio", "0.4", *RECIPE, "--out", "out")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model that has a chat template, and a corpus of 20 conversations."""
    write_chat_model(tmp_path / "m")
    write_records(tmp_path / "a.jsonl", conversations(20))
    (tmp_path / "fresh.toml").write_text("min_tokens = 0\nfresh_tokens = 500\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_variants_learn_from_fresh_texts_that_are_written_once(run: Run, work: Path) -> None:
    planned = json.loads(run(*EXPORT, "--dry-run", "--json").out)
    assert {"calibration", "fresh texts", "shrinking"} <= planned["seconds_about"].keys()
    outcome = run(*EXPORT)
    assert outcome.code == 0
    texts = read_tokens(work / "out/fresh/a/tokens.safetensors")
    tokens = sum(map(len, texts))
    assert tokens >= 500
    assert f"a: {tokens:,} tokens in {len(texts)} fresh texts" in outcome.err
    plan = json.loads(Path("out/a-0.4/plan.json").read_text())
    assert (plan["distillation"], plan["fresh_tokens"], plan["method"]) == (1.0, 500, "reconstruct")
    times = times_of_writing(work / "out/fresh")
    more = run(*EXPORT, "--ratio", "0.2")
    assert "fresh texts of a: reused" in more.err
    assert times_of_writing(work / "out/fresh") == times
    prune = ("prune", "m", "--plan", "out/a-0.4/plan.json", "--calibration", "out/calibration/a", "--out", "again")
    assert run(*prune).code == 0
    weights = [Path(folder, "model.safetensors").read_bytes() for folder in ("again", "out/a-0.4/hf")]
    assert weights[0] == weights[1]
    (work / "plain.toml").write_text("min_tokens = 0\n")
    assert run(*EXPORT, "--recipe", "plain.toml", "--out", "plain").code == 0
    assert weights[0] != Path("plain/a-0.4/hf/model.safetensors").read_bytes()
    assert not (work / "plain/fresh").exists()


def test_with_a_target_they_are_written_before_the_search(run: Run, work: Path) -> None:
    targets = ("--target-size", "450kB", "--precision", "fp32", "--quality", "--no-speed", "--out", "out")
    outcome = run("export", "m", "--task", "a=a.jsonl", "--recipe", "fresh.toml", "--set", "held_out=4", *targets)
    assert outcome.code == 0, outcome.err
    assert outcome.err.index("fresh texts; ") < outcome.err.index("trying a-")
    assert (work / "out/fresh/a/tokens.safetensors").is_file()
