"""The table has a row for each group of products, precision and number of tokens."""

from __future__ import annotations

import itertools
from pathlib import Path

from click.testing import CliRunner
from micro import write_micro_model

from validation.benchmarks.packing_table import packing_table


def test_a_row_for_each_case(tmp_path: Path) -> None:
    model = write_micro_model(tmp_path / "m", model_type="qwen3")
    options = ["--rows", "1", "--rows", "3", "--rounds", "2", "--runs", "1"]
    result = CliRunner().invoke(packing_table, [str(model), *options])
    assert result.exit_code == 0, result.output
    rows = [tuple(line.split(" | ")[:3]) for line in result.output.splitlines()[2:]]
    products = ("| gate_proj, up_proj", "| q_proj, k_proj, v_proj")
    assert rows == list(itertools.product(products, ("fp32", "int8", "int4"), ("1", "3")))
