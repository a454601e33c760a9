"""Leaving out one text after another tells how many tokens a further one will lack."""

from __future__ import annotations

import random

import pytest

from seap_export.vocabulary.use import TokenUse


def _use(texts: list[tuple[str, list[int]]]) -> TokenUse:
    use = TokenUse()
    for prompt, ids in texts:
        use.add(f"{prompt} {ids}", prompt, ids)
    return use


def _left_out(texts: list[tuple[str, list[int]]], kept: set[int]) -> float:
    """The same share by its definition: texts of one prompt are left out together."""
    missing = 0
    for prompt, ids in texts:
        others = {token for other, further in texts if other != prompt for token in further}
        missing += sum(token not in others | kept for token in ids)
    return missing / sum(len(ids) for _, ids in texts)


@pytest.mark.parametrize("seed", range(5))
def test_missing_is_what_each_text_has_alone(seed: int) -> None:
    drawn = random.Random(seed)
    texts = [(f"p{drawn.randrange(20)}", drawn.choices(range(60), k=drawn.randint(1, 8))) for _ in range(25)]
    texts = [text for number, text in enumerate(texts) if text not in texts[:number]]
    kept = set(range(0, 60, 7))
    assert 0 < _use(texts).missing(kept) == pytest.approx(_left_out(texts, kept))
    halves = _use(texts[:10]).together_with(_use(texts[10:]))
    assert halves.missing(kept) == pytest.approx(_left_out(texts, kept))
    assert halves.tokens == {token for _, ids in texts for token in ids}


def test_a_text_that_comes_twice_counts_once() -> None:
    once = [("p", [1, 2]), ("q", [1, 3])]
    assert _use([*once, *once]).missing(()) == _use(once).missing(()) == 0.5


def test_tokens_of_a_prompt_alone_are_used_and_not_counted() -> None:
    use = _use([("p", [1, 2]), ("q", [1, 2])])
    use.add_uncounted([9])
    assert (use.tokens, use.missing(())) == ({1, 2, 9}, 0.0)
    assert TokenUse().missing(()) == 0.0
