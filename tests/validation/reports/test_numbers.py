"""Numbers in words: digits and units, speed-ups, and what a divergence means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from validation.reports.numbers import figure, megabytes, percent, with_error
from validation.reports.speedups import speedup_in_words, speedups
from validation.reports.yardstick import kl_in_words

Report = dict[str, Any]
WORDS: dict[Callable[..., str], dict[tuple[float | None, ...], str]] = {
    figure: {
        **{(None,): "–", (math.inf,): "not finite", (0.0,): "0", (0.012345,): "0.0123", (9999.0,): "10000"},
        **{(61350.5,): "6.1e4", (1e-5,): "1e-5", (-0.5,): "-0.5"},
    },
    percent: {(0.2,): "20%", (0.2013,): "20.1%", (1.0,): "100%", (0.9996,): ">99.9%", (0,): "0%"},
    megabytes: {(812,): "812 B", (812_345,): "812 kB", (9_996_000,): "10.0 MB", (1_340_000_000,): "1.34 GB"},
    with_error: {
        (0.0938, 0.0062): "0.094 ± 0.006",
        (0.0938, 0.0014): "0.0938 ± 0.0014",
        (12.3, 3.2): "12 ± 3",
        (2.2e-11, 1.4e-12): "2.2e-11 ± 1.4e-12",
        (0.0938, None): "0.0938",
    },
    speedup_in_words: {
        (1.24, 1.001, 1.5): "1.24×",
        (1.24, 1.0, 1.5): "no speed-up",  # 1 itself is contained
        (0.97, 0.93, 1.0): "no speed-up",
        (0.9, 0.88, 0.93): "0.90×, slower",
        (1.24, None, None): "1.24×",
        (0.9, None, None): "0.90×, slower",
    },
}


@pytest.mark.parametrize("words", WORDS, ids=lambda words: words.__name__)
def test_in_words(words: Callable[..., str]) -> None:
    assert {values: words(*values) for values in WORDS[words]} == WORDS[words]


def test_judged_and_recorded_speedups_are_read_alike(passing: Report) -> None:
    recorded_speed, judged_speed = (passing["variants"][name]["speed"] for name in ("everyday-0.35", "arithmetic-0.2"))
    (recorded,) = speedups(recorded_speed, "decode")
    assert (recorded.value, recorded.low, recorded.high, recorded.share) == (1.25, 1.23, 1.27, 0.96)
    verdicts = [one for one in judged_speed["verdicts"] if one["figure"] == "prefill_speedup"]
    verdicts[1] |= {"found": 1.3, "low": 1.25, "high": 1.35}
    judged = speedups(judged_speed, "prefill")
    assert [(one.batch, one.depth) for one in judged] == [(1, 128), (1, 512), (4, 128)]
    assert [figure for one in judged for figure in (one.value, one.low, one.high)] == pytest.approx(
        [1.18, 1.14, 1.23, 1.3, 1.25, 1.35, 1.18, 1.02, 1.38]
    )
    assert speedups(None, "decode") == []
    judged_speed["verdicts"], judged_speed["dense"] = [], judged_speed["dense"][1:]
    assert [(one.value, one.low) for one in speedups(judged_speed, "decode")] == [(pytest.approx(1.24), None)] * 2


@pytest.mark.parametrize(
    ("kl", "beside", "share"),
    [
        (0.0013, "loses more at Q8_0 (0.0014).", "99.9%"),
        (0.101913, "loses as much between Q3_K_M (0.10) and Q2_K (0.45).", "90.3%"),
        (0.693147, "loses less at Q2_K (0.45).", "50%"),
    ],
)
def test_what_a_divergence_means(kl: float, beside: str, share: str) -> None:
    words = kl_in_words({"mean_kl_nats": kl})
    assert words[0].endswith(beside)
    assert f"keep {share} of their probability" in words[1]
