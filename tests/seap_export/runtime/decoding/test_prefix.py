"""What is continued gives what a fresh start gives, whatever it shares with the text before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest

from seap_export.runtime.decoding.decoder import Decoding, OnnxDecoder
from seap_export.runtime.decoding.prefix import PrefixCache

#: Tokens of one text after the other, so that the next goes on, differs in the middle, is a part, and fills the cache.
TEXTS = [
    list(range(4, 14)),
    list(range(4, 34)),
    [*range(4, 20), *range(50, 60)],
    list(range(4, 9)),
    [*range(4, 94), 5],
]
STEPS = 3


def decoder_of(folder: Path) -> OnnxDecoder:
    return OnnxDecoder(folder / "model.onnx", 128, threads=1)


def following(tokens: list[int]) -> list[int]:
    """What is said after a text, with which the one after the first goes on."""
    return list(range(tokens[-1] + 1, tokens[-1] + 1 + STEPS))


def logits_after(decoding: Decoding, tokens: list[int]) -> list[np.ndarray]:
    logits = [decoding.logits.copy()]
    for token in following(tokens):
        decoding.step([token])
        logits.append(decoding.logits.copy())
    return logits


@pytest.mark.parametrize(
    ("name", "options", "starts"),
    [
        ("llama-gqa", {"logits": "last"}, [10]),
        ("mistral-window", {}, [10]),
        # what is copied grows by itself, but cannot be cut: the third and the fourth text begin anew
        ("llama-gqa", {"dialect": "standard"}, [10, 26, 5]),
        ("lfm2", {}, [10, 26, 5]),
    ],
)
def test_a_text_goes_on_as_if_it_began(
    dense: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    options: dict[str, str],
    starts: list[int],
) -> None:
    decoder = decoder_of(dense(name, **options))
    cache, fresh = PrefixCache(decoder), decoder_of(dense(name, **options))
    start = MagicMock(wraps=decoder.start)
    monkeypatch.setattr(decoder, "start", start)
    for tokens in TEXTS:
        decoding = cache.start(tokens, STEPS)
        wanted = logits_after(fresh.start([tokens], STEPS), tokens)
        for logits, expected in zip(logits_after(decoding, tokens), wanted, strict=True):
            np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)
        cache.keep([*tokens, *following(tokens)], decoding)
    assert [len(prompt) for call in start.call_args_list for prompt in call.args[0]] == starts


def test_the_same_prompt_runs_its_last_token_alone_and_is_handed_out_once(dense: Callable[..., Path]) -> None:
    """An answer that was broken off leaves nothing that the next could trust."""
    cache = PrefixCache(decoder_of(dense("llama-gqa")))
    decoding = cache.start(TEXTS[0], STEPS)
    first = decoding.logits.copy()
    cache.keep(TEXTS[0], decoding)
    assert cache.start(TEXTS[0], STEPS) is decoding
    np.testing.assert_allclose(decoding.logits, first, rtol=0, atol=2e-5)
    assert cache.start(TEXTS[0], STEPS) is not decoding
