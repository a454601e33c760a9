from __future__ import annotations

import pytest

from validation.reports.yardstick import YARDSTICK, kl_in_words


@pytest.mark.parametrize(
    ("kl", "beside", "share"),
    [
        (0.0, "loses more at Q8_0 (0.0014).", "100%"),
        (0.0013, "loses more at Q8_0 (0.0014).", "99.9%"),
        (0.0938, "loses as much between Q4_K_M (0.031) and Q3_K_M (0.10).", "91%"),
        (0.101913, "loses as much between Q3_K_M (0.10) and Q2_K (0.45).", "90.3%"),
        (0.693147, "loses less at Q2_K (0.45).", "50%"),
    ],
)
def test_what_a_divergence_means(kl: float, beside: str, share: str) -> None:
    words = kl_in_words(kl)
    assert words[0].endswith(beside)
    assert f"keep {share} of their probability" in words[1]


def test_the_yardstick_gets_worse() -> None:
    losses = [loss for _, loss in YARDSTICK]
    assert losses == sorted(losses)
