"""Pieces are the text, whatever the tokenizer does with spaces and with the bytes of a character."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tokenizers import trained_byte_level, write_sentencepiece
from tokenizers import Tokenizer, processors

from seap_export.runtime.text import StopTexts, TextStream

TEXTS = [
    "the cat sat  on   a mat\n\n\tand it ran",
    "Grüße aus Köln, 你好世界, 🙂🚀👩‍👩‍👧 done",
    " leading and trailing ",
    "a�b � c",
    "�",
]


@pytest.fixture(params=["bytes", "SentencePiece"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> Tokenizer:
    """Most characters beyond ASCII are several tokens; SentencePiece drops the first space."""
    if request.param == "bytes":
        tokenizer = trained_byte_level(TEXTS, 270)
        tokenizer.add_special_tokens(["<s>"])
        return tokenizer
    write_sentencepiece(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.post_processor = processors.Sequence([])
    return tokenizer


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("prompt", ["ü", "<s>the"])
def test_pieces_are_the_text(tokenizer: Tokenizer, text: str, prompt: str) -> None:
    before, new = tokenizer.encode(prompt).ids, tokenizer.encode(text).ids
    stream = TextStream(tokenizer, before)
    pieces = [*map(stream.add, new), stream.end()]
    assert tokenizer.decode(before) + "".join(pieces) == tokenizer.decode(before + new)
    if "�" not in text:
        assert not any("�" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 3 or len(text) < 5  # it does not wait for the end


def test_halves_of_characters_and_special_tokens_lose_nothing(tokenizer: Tokenizer) -> None:
    the, special = tokenizer.encode(" the").ids, tokenizer.token_to_id("<s>")
    stream = TextStream(tokenizer, the)
    begun = "".join(map(stream.add, [*the, special, special, *tokenizer.encode(" the 🙂").ids[:-1]]))
    assert (begun.split(), {*stream.end().strip()}) == (["the", "the"], {"�"})  # it never gets whole


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
