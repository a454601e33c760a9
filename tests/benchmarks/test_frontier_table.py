"""The whole command on files of this package; the tools of others are missing, and named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.frontier.makers import INSTALL
from benchmarks.frontier_table import frontier_table
from click.testing import CliRunner
from support.corpora import micro_texts

from seap_export.cli import main
from seap_export.errors import UsageError


@pytest.fixture(scope="module")
def calibration(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    corpus = folder / "a.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in micro_texts(24)), "utf-8")
    options = ["--task", f"a={corpus}", "--samples", "16", "--held-out", "4", "--out", str(folder / "out"), "-q"]
    assert CliRunner().invoke(main, ["calibrate", str(dense), *options]).exit_code == 0
    return folder / "out" / "calibration" / "a"


def _invoke(dense: Path, calibration: Path, *options: str) -> str:
    arguments = [str(dense), "--calibration", str(calibration), "--no-speed", "--threads", "1", *options]
    done = CliRunner().invoke(frontier_table, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_rows_by_size_and_what_is_missing(
    dense: Path, calibration: Path, graphs: dict[str, Path], tmp_path: Path
) -> None:
    int4 = tmp_path / "int4"
    words = ["convert", str(dense), "--out", str(int4), "--precision", "int4", "-q"]
    assert CliRunner().invoke(main, words).exit_code == 0
    rows, plot = tmp_path / "rows.json", tmp_path / "plot.svg"
    options = ["--ours", f"whole={graphs['ours'].parent}", "--ours", f"int4={int4}", "--ours", f"torch={dense}"]
    stdout = _invoke(dense, calibration, *options, "--number", "3", "--json", str(rows), "--plot", str(plot))

    lines = [line.strip("| ").split(" | ") for line in stdout.splitlines() if line.startswith("|")]
    assert next(line[0] for line in lines[2:]) == "int4"
    report = json.loads(rows.read_text("utf-8"))
    assert report["setting"]["texts"] == 3
    assert report["setting"]["task"] == "a"
    by_name = {row["name"]: row for row in report["rows"]}
    assert by_name.keys() == {"whole", "int4", "torch"}
    kl = {name: row["quality"]["kl"] for name, row in by_name.items()}
    assert kl["torch"] <= kl["whole"] < 1e-6 < kl["int4"]
    assert by_name["int4"]["quality"]["top1"] <= 1.0
    assert by_name["int4"]["speed"] is None
    assert by_name["int4"]["bytes"] < by_name["whole"]["bytes"]
    for tool in INSTALL:
        assert f"--python {tool}=ENV/bin/python" in stdout
    assert "; NNCF INT4_ASYM, ratio 0.8: run: python -m venv ENV && ENV/bin/pip install nncf openvino;" in stdout
    assert plot.read_text("utf-8").startswith("<?xml")


def test_a_file_that_cannot_be_measured_is_no_end(
    dense: Path, calibration: Path, graphs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "genai_config.json").write_text("{}", "utf-8")
    folders = ["--ours", f"good={graphs['ours'].parent}", "--ours", f"bad={tmp_path}"]
    stdout = _invoke(dense, calibration, *folders)
    assert "| good |" in stdout
    assert "skipped: bad: " in stdout


def test_an_unknown_tool_is_refused(dense: Path, calibration: Path) -> None:
    with pytest.raises(UsageError, match="unknown tool 'other'"):
        _invoke(dense, calibration, "--python", "other=/x")
