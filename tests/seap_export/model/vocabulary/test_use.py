"""Leaving out one text after another tells how many tokens a further one will lack."""

from __future__ import annotations

import random

import pytest

from seap_export.model.vocabulary.use import TokenUse


def _use(texts: list[list[int]]) -> TokenUse:
    use = TokenUse()
    for ids in texts:
        use.add(f"{ids}", ids)
    return use


def _left_out(texts: list[list[int]], kept: set[int]) -> float:
    """The same share by its definition."""
    missing = 0
    for number, ids in enumerate(texts):
        others = {token for further in (*texts[:number], *texts[number + 1 :]) for token in further}
        missing += sum(token not in others | kept for token in ids)
    return missing / sum(map(len, texts))


@pytest.mark.parametrize("seed", range(2))
def test_missing_is_what_each_text_has_alone(seed: int) -> None:
    drawn = random.Random(seed)
    texts = [[number, *drawn.choices(range(30, 90), k=drawn.randint(1, 8))] for number in range(25)]
    kept = set(range(0, 90, 7))
    assert 0 < _use(texts).missing(kept) == pytest.approx(_left_out(texts, kept))
    halves = _use(texts[:10]).together_with(_use(texts[10:]))
    assert halves.missing(kept) == pytest.approx(_left_out(texts, kept))
    assert halves.tokens == {token for ids in texts for token in ids}


def test_what_counts_as_a_text() -> None:
    once = [[1, 2], [1, 3]]
    assert _use([*once, *once]).missing(()) == _use(once).missing(()) == 0.5
    answered = _use(once)
    answered.add("2 answered otherwise", [1, 2, 4], version_of=f"{[1, 2]}")
    assert answered.missing(()) == 4 / 7
    asked = _use([[1, 2], [2, 1]])
    asked.add_uncounted([9])  # of a prompt alone
    assert (asked.tokens, asked.missing(())) == ({1, 2, 9}, 0.0)
    assert TokenUse().missing(()) == 0.0
