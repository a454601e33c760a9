"""Tables and prose that fit the window."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from support.exports import Run
from support.product import PeakMemory

from seap_export.cli.window import WIDE, Table, prose
from seap_export.pipeline.evaluation import bench

ROWS = [["a-0.4/onnx int4", "45.0 MB", "-", "0.086 +- 0.007", "ship"], ["b", "148.8 MB", "-", "0.006 +- 0.001", ""]]
TABLE = Table(["file", "size", "right", "KL", "verdict"], ROWS, first=2)


def lines(monkeypatch: pytest.MonkeyPatch, table: Table, columns: int) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    return table.text.splitlines()


def test_columns_that_do_not_fit_are_left_out_and_those_of_dashes_always(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines(monkeypatch, TABLE, 80) == [
        "file                 size              KL  verdict",
        "a-0.4/onnx int4   45.0 MB  0.086 +- 0.007  ship",
        "b                148.8 MB  0.006 +- 0.001",
    ]
    assert lines(monkeypatch, Table(TABLE.header, ROWS, first=2), 41)[0].split() == ["file", "size", "KL"]


def test_what_must_be_shown_is_wrapped_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(["variant", "why"], [["a-0.4", "too few questions were asked to tell"]])
    assert lines(monkeypatch, table, 30) == [
        "variant  why",
        "a-0.4    too few questions",
        "         were asked to tell",
    ]


def test_wide_shows_all_and_lines_explain_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "41")
    words = [("KL", "KL: nats."), ("right", "Right: questions."), ("verdict", "Verdict: what to ship.")]
    table = Table(TABLE.header, ROWS, first=2)
    assert (table.text.splitlines()[-1], list(table.legend(words))) == ("More columns: --wide", ["KL: nats."])
    with click.Context(click.Command("any")) as context:
        context.meta[WIDE] = True
        table = Table(TABLE.header, ROWS, first=2)
        assert max(map(len, table.text.splitlines())) > 41
        assert list(table.legend(words)) == ["KL: nats.", "Verdict: what to ship."]


def test_commands_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = "  a model's runtime is missing; see 'seap-export doctor --help' or run: pip install one two three"
    assert prose(text, hang=4).splitlines() == [
        "  a model's runtime is",
        "    missing; see",
        "    'seap-export doctor --help'",
        "    or run:",
        "    pip install one two three",
    ]


def test_output_fits_a_window_of_80_columns(run: Run, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "peak_memory", lambda *_: PeakMemory(10**9, None))
    monkeypatch.setenv("COLUMNS", "80")
    for command in (
        "export m --task a=a.jsonl --ratio 0.2 --out out",
        "export m --task a=a.jsonl --out x --target-size 200kB --quality --dry-run",
        "inspect out",
        "evaluate out/a-0.2 --dense m --runtime torch --runtime onnxruntime",
        "bench out/a-0.2 --dense m --depth 8 --batch 1 --runs 2 --steps 2",
    ):
        outcome = run(*command.split())
        assert outcome.code == 0, outcome.err
        assert [line for line in outcome.out.splitlines() if len(line) > 80 and "seap-export " not in line] == []
