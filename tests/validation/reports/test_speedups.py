from __future__ import annotations

from typing import Any

import pytest

from validation.reports.speedups import speedup_in_words, speedups

Report = dict[str, Any]


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (1.24, 1.2, 1.29, "1.24×"),
        (1.24, 1.001, 1.5, "1.24×"),
        (1.24, 1.0, 1.5, "no speed-up"),  # 1 itself is contained
        (1.24, 0.98, 1.5, "no speed-up"),
        (0.97, 0.93, 1.0, "no speed-up"),
        (0.9, 0.88, 0.93, "0.90×, slower"),
        (1.24, None, None, "1.24×"),
        (0.9, None, None, "0.90×, slower"),
    ],
)
def test_an_interval_that_contains_1_is_no_speedup(
    value: float, low: float | None, high: float | None, words: str
) -> None:
    assert speedup_in_words(value, low, high) == words


def test_judged_and_recorded_speedups_are_read_alike(passing: Report) -> None:
    variants = passing["variants"]
    (recorded,) = speedups(variants["everyday-0.35"]["speed"], "decode")
    assert (recorded.value, recorded.low, recorded.high, recorded.share) == (1.25, 1.23, 1.27, 0.96)
    (longer,) = (
        verdict
        for verdict in variants["arithmetic-0.2"]["speed"]["verdicts"]
        if (verdict["figure"], verdict["depth"]) == ("prefill_speedup", 512)
    )
    longer |= {"found": 1.3, "low": 1.25, "high": 1.35}
    judged = speedups(variants["arithmetic-0.2"]["speed"], "prefill")
    assert [(one.batch, one.depth) for one in judged] == [(1, 128), (1, 512), (4, 128)]
    assert [figure for one in judged for figure in (one.value, one.low, one.high)] == pytest.approx(
        [1.18, 1.14, 1.23, 1.3, 1.25, 1.35, 1.18, 1.02, 1.38]
    )
    assert speedups(None, "decode") == []
    speed = variants["arithmetic-0.2"]["speed"]
    speed["verdicts"], speed["dense"] = [], speed["dense"][1:]
    assert [(one.value, one.low) for one in speedups(speed, "decode")] == [(pytest.approx(1.24), None)] * 2
