"""The table of groups: without a tolerance nothing is lost, and with a large one the avoided number is gone."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from micro import micro_texts, write_micro_model

from seap_export.cli import main
from validation.benchmarks.groups_table import groups_table


def test_avoided_numbers_become_fewer(tmp_path: Path) -> None:
    shape = {"head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 512}
    model = write_micro_model(tmp_path / "m", model_type="llama", **shape)
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in micro_texts(24)), "utf-8")
    options = ["--task", f"a={corpus}", "--samples", "16", "--held-out", "4", "--out", str(tmp_path / "out"), "-q"]
    assert CliRunner().invoke(main, ["calibrate", str(model), *options]).exit_code == 0

    arguments = [str(model), "--calibration", str(tmp_path / "out" / "calibration" / "a"), "--avoid", "3"]
    done = CliRunner().invoke(groups_table, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["0.1", "0.2", "0.3", "0.5"]
    kept = [[int(cell.split()[1]) for cell in row[1:]] for row in rows]
    assert [row[1].split(",")[0] for row in rows] == ["+0.00%"] * 4
    assert all(row[-1] == 0 for row in kept)
    assert any(row[0] > 0 for row in kept)
