from __future__ import annotations

from typing import Any

import pytest

from validation.reports.frontier import frontier_cells

POINT = {
    "mean_kl_nats": 0.25,
    "mean_kl_nats_stderr": 0.02,
    "kl_difference": None,
    "top1_agreement": 0.9,
    "decode_ideal_speedup": 2.0,
    "decode_speedup": None,
}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ["0.25 +- 0.02", "-", "90%", "2.00x", "-"]),
        ({"lost_kl_nats": 0.2, "vocabulary": "auto"}, ["0.25 +- 0.02 (0.2 of it for dropped tokens)"]),
        ({"kl_difference": 0.05, "kl_difference_stderr": 0.02}, ["+0.05 +- 0.02"]),
        ({"kl_difference": -0.03, "kl_difference_stderr": 0.02}, ["-0.03 +- 0.02 (too close to tell)"]),
        ({"kl_difference": 0.05, "kl_difference_stderr": None}, ["+0.05 (too close to tell)"]),
        ({"decode_speedup": 1.5, "decode_speedup_low": 1.25, "decode_speedup_high": 1.75}, ["1.50x (1.25 to 1.75)"]),
        (
            {"decode_speedup": 1.1, "decode_speedup_low": 0.9, "decode_speedup_high": 1.3},
            ["no speed-up (0.90 to 1.30)"],
        ),
        (
            {"decode_speedup": 0.8, "decode_speedup_low": 0.7, "decode_speedup_high": 0.9},
            ["0.80x, slower (0.70 to 0.90)"],
        ),
        ({"decode_speedup": 1.5}, ["1.50x (no interval)"]),
    ],
)
def test_what_is_shown_of_a_candidate(values: dict[str, Any], words: list[str]) -> None:
    lines = [cell.line for cell in frontier_cells({**POINT, **values}, {})]
    assert [word for word in words if word not in lines] == []
