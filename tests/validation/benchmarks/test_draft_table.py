"""How many calls of the target an answer takes."""

from __future__ import annotations

import numpy as np
import pytest

from validation.benchmarks.draft_table import rounds


@pytest.mark.parametrize(
    ("right", "k", "calls"),
    [
        ("1111111", 1, 4),  # two tokens a call: a guess and the target's own
        ("1111111", 3, 2),
        ("0000", 3, 4),  # a token a call
        ("110111", 4, 2),  # two guesses and what comes instead of the third; then three
        ("10101", 2, 3),
        ("1", 8, 1),
        ("", 3, 0),
    ],
)
def test_a_call_ends_at_the_first_wrong_guess(right: str, k: int, calls: int) -> None:
    assert rounds(np.array([letter == "1" for letter in right], bool), k) == calls
