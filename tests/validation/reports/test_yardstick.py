from __future__ import annotations

import pytest

from validation.reports.yardstick import kl_in_words


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
    words = kl_in_words({"mean_kl_nats": kl})
    assert words[0].endswith(beside)
    assert f"keep {share} of their probability" in words[1]


def test_what_tokens_that_are_gone_lose_is_told_apart() -> None:
    cut = {"lost_mass": 0.26, "lost_kl_nats": 0.4, "kept_kl_nats": 0.009}
    assert kl_in_words({"mean_kl_nats": 0.409, "vocabulary": cut}) == (
        "In llama.cpp, Llama 3 8B loses as much between Q3_K_M (0.10) and Q2_K (0.45).",
        "The dense model gives 26% of its probability to tokens that are gone (0.4 of the KL); "
        "those that stay keep 99.1% of theirs (0.009 of it).",
    )
