"""How long tokens are does not depend on how a text is cut."""

from __future__ import annotations

import pytest
from support.tokenizers import BPE_KINDS, random_bpe, random_bpe_texts, tokenizer_json
from tokenizers import Tokenizer

from seap_export.model.vocabulary.sizes import token_sizes


@pytest.mark.parametrize("kind", BPE_KINDS)
def test_the_sizes_of_a_text_add_up(kind: str) -> None:
    content = random_bpe(7, kind)
    content["added_tokens"].append({**content["added_tokens"][0], "id": 500, "content": "«é»"})
    assert token_sizes(content)[500] == 6
    del content["added_tokens"][-1]
    tokenizer, sizes = Tokenizer.from_str(tokenizer_json(content)), token_sizes(content)
    for text in [*random_bpe_texts(7, 20), "<s>ab"]:
        length = len(text.replace(" ", "\u2581" if kind == "fallback" else " ").encode())
        assert sizes[tokenizer.encode(text).ids].sum() == length
