"""The Markdown tables: cells, units and the direction of the ratios."""

from __future__ import annotations

from benchmarks.peers.artifacts import Written
from benchmarks.peers.contest import Agreement, Result
from benchmarks.peers.loops import LoopResult
from benchmarks.peers.tables import loops_table, ratios_table, sessions_table, writers_table
from support.product import Timing

FAST, SLOW = Timing([1.0, 2.0, 1.0], [0.01]), Timing([4.0], [0.02])


def test_what_writing_took() -> None:
    table = writers_table({"a": Written("m", 1.234, 5_600_000, 7_890_000, False), "b": Written("m", 1, 0, 0, True)})
    assert table.splitlines() == [
        "| artifact | wall | peak memory | ONNX on disk | written |",
        "| --- | --- | --- | --- | --- |",
        "| a | 1.23 s | 6 MB | 7.9 MB | now |",
        "| b | 1.00 s | 0 MB | 0.0 MB | in an earlier run |",
    ]


def test_sessions_have_medians_in_milliseconds() -> None:
    table = sessions_table({"a": Result(Agreement(1.2e-5, 0.5), FAST)})
    assert table.splitlines()[2] == "| a | 1.2e-05 | 50% | 1000.0 ms | 1900.0 ms | 10.00 ms |"


def test_loops_tell_how_many_tokens_are_the_same() -> None:
    table = loops_table({"a": LoopResult(FAST, [1, 2, 3, 4])}, [1, 2, 3, 5])
    assert table.splitlines()[2] == "| a | 75% | 1000.0 ms | 1900.0 ms | 10.00 ms |"


def test_ratios_are_below_one_where_ours_is_faster() -> None:
    assert ratios_table({"peer": SLOW, "ours": FAST, "ours-last": SLOW}, ["ours", "ours-last"]).splitlines() == [
        "| ours / peer: prefill / decode | ours | ours-last |",
        "| --- | --- | --- |",
        "| peer | 0.25 / 0.50 | 1.00 / 1.00 |",
    ]
