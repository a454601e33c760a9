"""The table has a row for each precision and number of tokens."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from micro import write_micro_model

from validation.benchmarks.packing_table import packing_table


def test_a_row_for_each_case(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", model_type="llama")
    result = CliRunner().invoke(packing_table, [str(model), "--rows", "1", "--rows", "3", "--runs", "1"])
    assert result.exit_code == 0, result.output
    rows = [line.split(" | ")[:2] for line in result.output.splitlines()[2:]]
    assert rows == [[f"| {precision}", number] for precision in ("fp32", "int8", "int4") for number in ("1", "3")]
