"""What is printed: tables and prose that fit the window, and variants that gain nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.exports import Run
from support.product import PeakMemory

from seap_export.cli.exported import no_gains
from seap_export.cli.window import Table
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


def _exported(size: int, dense_size: int | None, low: float, high: float | None) -> Any:
    figures = {f"{what}_{key}": low for what in ("decode", "prefill") for key in ("speedup", "share_of_ideal")}
    cell = {**figures, "decode_speedup_high": high, "prefill_speedup_high": 1.2}
    variant = {
        "requested_ratio": 0.2,
        "bytes": {"onnx": size},
        "dense_bytes": {"onnx": dense_size},
        "speed": {"variant": [cell]},
    }
    return SimpleNamespace(variants={"a-0.2": {}}, described={"a-0.2": variant})


@pytest.mark.parametrize(
    ("exported", "words"),
    [
        (_exported(80, 100, 1.1, 1.2), []),
        (_exported(80, None, 0.9, 1.1), []),  # perhaps slower, perhaps not
        (_exported(80, 100, 0.9, None), []),
        (_exported(100, 100, 1.1, 1.2), ["no smaller"]),
        (_exported(80, 100, 0.8, 0.9), ["decode is slower"]),
    ],
)
def test_variants_without_a_gain_are_named(exported: Any, words: list[str]) -> None:
    lines = list(no_gains(exported))
    assert len(lines) == len(words)
    assert all(word in line for word, line in zip(words, lines, strict=True))
