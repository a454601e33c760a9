"""Pieces are the text, whatever the tokenizer does with spaces and with the bytes of a character."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.tokenizers import trained_byte_level
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from seap_export.runtime.text import StopTexts, TextStream

TEXTS = [
    "the cat sat  on   a mat\n\n\tand it ran",
    "Grüße aus Köln, 你好世界, 🙂🚀👩‍👩‍👧 done",
    " leading and trailing ",
    "a�b � c",
    "�",
]


def byte_level() -> Tokenizer:
    """Most characters beyond ASCII are several tokens."""
    tokenizer = trained_byte_level(TEXTS, 270)
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As SentencePiece makes them: a mark for the space, which is dropped at the start, and tokens for bytes."""
    characters = ["▁", "▁the", *"\n\tabcdefghijklmnopqrstuvwxyzGK,", "ü"]
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    tokens = {token: index for index, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(tokens, [], byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", ["ü", "<s>the"])
def test_pieces_are_the_text(make: Callable[[], Tokenizer], text: str, prompt: str) -> None:
    tokenizer = make()
    before, new = tokenizer.encode(prompt).ids, tokenizer.encode(text).ids
    stream = TextStream(tokenizer, before)
    pieces = [*map(stream.add, new), stream.end()]
    start = tokenizer.decode(before)
    assert start + "".join(pieces) == tokenizer.decode(before + new)
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 3 or len(text) < 5  # it does not wait for the end


def test_halves_of_characters_and_special_tokens_lose_nothing() -> None:
    tokenizer = byte_level()
    stream = TextStream(tokenizer, tokenizer.encode("the").ids)
    begun = "".join(map(stream.add, tokenizer.encode("ok 🙂").ids[:-1]))  # it never gets whole
    assert (begun.strip(), {*stream.end().strip()}) == ("ok", {"�"})
    tokenizer = byte_fallback()
    special, the = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("▁the")
    stream = TextStream(tokenizer, [the])
    assert [stream.add(token) for token in (the, special, special, the)] == [" the", "", "", " the"]
    assert stream.end() == ""


@pytest.mark.parametrize("size", [1, 3, 50])
@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        ([], "one two", "one two"),
        (["two"], "one two three", "one "),
        (["xx", " tw"], "one twxx", "one"),
        (["aab"], "aaab.", "a"),
        (["\n\n", "one two!"], "one two\n", "one two\n"),
        (["one"], "one", ""),
    ],
)
def test_a_text_ends_before_a_stop_text(stops: list[str], text: str, expected: str, size: int) -> None:
    """However it comes; what may be the beginning of one is held back, and given out at the end."""
    watched = StopTexts(stops)
    pieces = [watched.add(text[start : start + size]) for start in range(0, len(text), size)]
    assert "".join([*pieces, watched.end()]) == expected
    assert watched.is_reached == (expected != text)
