"""How long tokens are does not depend on how a text is cut."""

from __future__ import annotations

import pytest
from random_bpe import KINDS, as_text, random_texts, random_tokenizer
from tokenizers import Tokenizer

from seap_export.vocabulary.sizes import token_sizes


@pytest.mark.parametrize("kind", KINDS)
def test_the_sizes_of_a_text_add_up(kind: str) -> None:
    content = random_tokenizer(7, kind)
    tokenizer, sizes = Tokenizer.from_str(as_text(content)), token_sizes(content)
    for text in [*random_texts(7, 20), "<s>ab"]:
        length = len(text.replace(" ", "\u2581" if kind == "fallback" else " ").encode())
        assert sizes[tokenizer.encode(text).ids].sum() == length
