"""What is said beforehand is what an export takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.random_model import write_random_model
from benchmarks.shapes import Shape
from support.exports import run_here

SHAPE = Shape(layers=2, hidden=256, heads=8, kv_heads=4, neurons=1024, vocabulary=4096, positions=1024, tied=True)
TEXTS = [f"{number} apples and {number + 1} pears make {2 * number + 1} pieces of fruit." for number in range(12)]


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_an_export_takes_what_was_said(tmp_path: Path, precision: str) -> None:
    write_random_model(tmp_path / "m", SHAPE)
    corpus = tmp_path / "fruit.txt"
    corpus.write_text("\n\n".join(TEXTS), "utf-8")
    words = ["export", tmp_path / "m", "--task", f"fruit={corpus}", "--ratio", "0.5", "--precision", precision]
    words += ["--set", "held_out=2", "--out", tmp_path / "out", "--quiet"]
    said, done = run_here(*words, "--dry-run", "--json"), run_here(*words)
    assert (said.code, done.code) == (0, 0), done
    taken = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    values = json.loads(said.out)
    assert values["disk_about"]["kept"] == pytest.approx(taken, rel=0.1)
    assert all(values["seconds_about"][kind] > 0 for kind in ("calibration", "ranking", "refit"))
    again = json.loads(run_here(*words, "--dry-run", "--json").out)
    assert (again["seconds_about"], again["disk_about"]) == ({}, {"kept": 0, "unfinished": 0, "temporary": 0})
