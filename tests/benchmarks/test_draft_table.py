"""How many calls of the target an answer takes, and a draft with fewer tokens."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.draft_table import rounds, shared_numbers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel


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


def test_tokens_are_those_of_the_same_text() -> None:
    target, draft = (
        Tokenizer(WordLevel({word: number for number, word in enumerate(words.split())}, unk_token="a"))
        for words in ("a b c d", "a c d")
    )
    assert shared_numbers(target, draft) == {0: 0, 2: 1, 3: 2}
