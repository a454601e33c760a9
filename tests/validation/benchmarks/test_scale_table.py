"""Exports are measured step by step, and the figures are those that the exports leave."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.corpora import micro_texts

from validation.benchmarks.scale_table import scale_table


@pytest.mark.full
def test_two_interpreters_and_the_first_of_two_tasks(dense: Path, tmp_path: Path) -> None:
    words = ["--model", str(dense), "--python", f"a={sys.executable}", "--python", f"b={sys.executable}"]
    words += ["--tasks", "1", "--out", str(tmp_path / "out"), "--"]
    for task in ("x", "y"):
        (tmp_path / f"{task}.txt").write_text("\n\n".join(micro_texts(24)), "utf-8")
        words += ["--task", f"{task}={tmp_path / task}.txt"]
    words += ["--ratio", "0.4", "--no-quality", "--no-speed", "--set", "held_out=4"]
    done = CliRunner().invoke(scale_table, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output

    rows = json.loads((tmp_path / "out" / "figures.json").read_text("utf-8"))
    assert [(row["python"], row["tasks"]) for row in rows] == [("a", 1), ("b", 1)]
    assert {"calibration", "ranking", "shrinking", "onnx", "parity", "validation"} <= rows[0]["seconds"].keys()
    assert rows[0]["disk_bytes"] == pytest.approx(rows[1]["disk_bytes"], rel=0.01)
    assert all(0 < min(row["peaks"].values()) <= row["peak_bytes"] for row in rows)
    assert done.stdout.count("| parity |") == 2
    assert len([line for line in done.stdout.splitlines() if line.endswith("% |")]) == 2
    log = (tmp_path / "out" / "log.txt").read_text("utf-8")
    assert (log.count("$ "), "x.txt" in log, "y.txt" in log) == (2, True, False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["figures.json", "log.txt"]
