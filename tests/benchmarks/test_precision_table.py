"""The table of precisions holds every model in every precision, the largest file first."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.precision_table import precision_table
from click.testing import CliRunner
from support.corpora import micro_texts

from seap_export.cli import main


def test_rows_by_size(dense: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "a.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in micro_texts(24)), "utf-8")
    options = ["--task", f"a={corpus}", "--samples", "16", "--held-out", "4", "--out", str(tmp_path / "out"), "-q"]
    assert CliRunner().invoke(main, ["calibrate", str(dense), *options]).exit_code == 0

    arguments = [str(dense), "--calibration", str(tmp_path / "out" / "calibration" / "a"), "--ratio", "0.4"]
    arguments += ["--precision", "fp32", "--precision", "int4", "--json", str(tmp_path / "rows.json")]
    done = CliRunner().invoke(precision_table, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    table = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [(line[0].strip("| "), line[1], line[2].strip()) for line in table] == [
        ("dense", "fp32", ""), ("a-0.4", "fp32", ""),
        ("dense", "int4", "nearest"), ("dense", "int4", "calibrated"),
        ("a-0.4", "int4", "nearest"), ("a-0.4", "int4", "calibrated"),
    ]  # fmt: skip
    written = json.loads((tmp_path / "rows.json").read_text())
    rows = {(row["model"], row["precision"], row["rounding"]): row for row in written}
    kl = {key: row["mean_kl_nats"] for key, row in rows.items()}
    assert kl["dense", "fp32", ""] < 1e-6 < kl["dense", "int4", "calibrated"] < kl["dense", "int4", "nearest"]
    assert kl["a-0.4", "fp32", ""] > 1e-6
    assert len({row["onnx_bytes"] for row in written if (row["model"], row["precision"]) == ("dense", "int4")}) == 1
    assert rows["dense", "fp32", ""]["perplexity"] > 1.0
