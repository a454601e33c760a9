"""The table of eliminations has the figures of every width, of made-up and of real activations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from validation.benchmarks.elimination_table import elimination_table


def test_a_row_for_each_size(tmp_path: Path) -> None:
    saved = tmp_path / "rows.json"
    sizes = ["--size", "48x12", "--size", "80x16", "--compare-up-to", "50"]
    options = [*sizes, "--tokens", "64", "--runs", "1", "--threads", "1", "--json", str(saved)]
    done = CliRunner().invoke(elimination_table, options, catch_exceptions=False)
    assert done.exit_code == 0
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [(line[0], line[1]) for line in lines] == [("48", "12"), ("80", "16")]
    assert lines[1][-1] == "not measured"
    compared, alone = json.loads(saved.read_text("utf-8"))
    assert 0.0 < compared["loss"]["0.2"] < compared["loss"]["0.5"] < compared["loss"]["0.8"]
    assert all(-0.2 < own < 0.5 for own in compared["excess"].values())
    assert alone["excess"] is None


@pytest.mark.parametrize("options", [["--size", "48"], ["--model", "m"]])
def test_what_it_cannot_measure_is_refused(options: list[str]) -> None:
    assert CliRunner().invoke(elimination_table, options).exit_code == 2
