"""The table of sessions' memory holds what is estimated next to what a process of its own takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from converters.onnx.onnx_writer import write_onnx


@pytest.mark.parametrize("option", [(), ("--mapped",)])
def test_a_row_for_each_length(option: tuple[str, ...], dense: Path, tmp_path: Path) -> None:
    write_onnx(dense, tmp_path)
    command = [sys.executable, "-m", "validation.benchmarks.session_memory_table", str(tmp_path)]
    command += ["--tokens", "4", "--tokens", "16", *option]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [[tmp_path.name, "4"], [tmp_path.name, "16"]]
    for row in rows:
        assert all(cell.endswith(" MB") and int(cell[:-3]) > 0 for cell in row[2:4])
