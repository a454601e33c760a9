"""The table of prompts has a row for each folder, compared with the first."""

from __future__ import annotations

from pathlib import Path

from benchmarks.prompt_table import prompt_table
from click.testing import CliRunner
from support.product import OnnxForm, PrecisionName, choose_precision, convert_folder


def test_a_row_for_each_folder(dense: Path, tmp_path: Path) -> None:
    names: tuple[PrecisionName, ...] = ("int8", "w8a8")
    for name in names:
        (tmp_path / name).mkdir()
        convert_folder(dense, tmp_path / name, OnnxForm(choose_precision(name), logits="last"))
    arguments = [*(str(tmp_path / name) for name in names), "--tokens", "9", "--steps", "2", "--rounds", "2"]
    done = CliRunner().invoke(prompt_table, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == list(names)
    assert (rows[0][2], rows[0][4]) == ("1.00", "1.00")
    assert all(row[1].endswith(" ms") and row[5].endswith(" MB") for row in rows)
