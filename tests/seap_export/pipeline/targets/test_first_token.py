"""How a user says how soon the first token must be there, and what meets it."""

from __future__ import annotations

import pytest
from support.product import FirstToken, Interval, PromptTime

from seap_export.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512:250ms", FirstToken(512, ms=250.0)),
        ("512:0.25s", FirstToken(512, ms=250.0)),
        ("1:2x", FirstToken(1, speedup=2.0)),
        (" 128:.5x ", FirstToken(128, speedup=0.5)),
    ],
)
def test_its_forms(text: str, expected: FirstToken) -> None:
    assert FirstToken.parse(text) == expected


@pytest.mark.parametrize("text", ["250ms", "512", "512:250", "0:250ms", "512:0x", "-1:2x"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"target_first_token.*512:250ms.*512:2x"):
        FirstToken.parse(text)


def test_the_margin_is_how_much_slower_it_might_be() -> None:
    prompt = PromptTime(200.0, 3.0, Interval(190.0, 260.0), Interval(2.5, 3.5))
    assert FirstToken(512, ms=250.0).margin(prompt) == 1.25
    assert FirstToken(512, speedup=2.0).margin(prompt) == 1.5
    assert not FirstToken(512, ms=250.0).surely(prompt)
    assert FirstToken(512, speedup=2.5).surely(prompt)
    assert FirstToken(512, ms=200.0).surely(PromptTime(200.0, 1.0))
