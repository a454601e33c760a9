"""Texts of kept tokens are cut into the same tokens; any other text still encodes and decodes to itself."""

from __future__ import annotations

import pytest
from support.tokenizers import BPE_KINDS, random_bpe, random_bpe_texts, tokenizer_json
from tokenizers import Tokenizer

from seap_export.model.vocabulary.choice import choose_tokens, required_tokens
from seap_export.model.vocabulary.pairs import BytePairs
from seap_export.model.vocabulary.sizes import token_sizes
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.model.vocabulary.tokenizer import cut_tokenizer


def _vocabulary(content: dict, used: frozenset[int], more: int = 0) -> Vocabulary:
    pairs = BytePairs.read(content)
    required, count = required_tokens(content, pairs, used), len(content["model"]["vocab"])
    return choose_tokens(pairs, required, min(len(required) + more, count - 1), count)


@pytest.mark.parametrize("kind", BPE_KINDS)
def test_a_text_of_kept_tokens_is_cut_alike_and_any_other_decodes_to_itself(kind: str) -> None:
    alike = other = 0
    for seed in range(20):
        content = random_bpe(seed, kind)
        dense = Tokenizer.from_str(tokenizer_json(content))
        texts = random_bpe_texts(seed, 40)
        used = frozenset(token for text in texts[:2] for token in dense.encode(text).ids)
        kept = _vocabulary(content, used, more=seed % 5)
        cut = Tokenizer.from_str(tokenizer_json(cut_tokenizer(content, kept)))
        words = [word for text in texts for word in text.split(" ")]
        for text in texts + words:
            before, after = dense.encode(text).ids, cut.encode(text).ids
            if kept.new_ids.keys() >= set(before):
                alike += 1
                assert after == [kept.new_ids[token] for token in before], (seed, text)
            else:
                other += 1
            assert cut.decode(after) == dense.decode(before) == text
    assert min(alike, other) > 500


def test_what_makes_a_token_is_what_makes_it_alone_and_not_its_first_merge() -> None:
    """abc is ab + c by the first merge in the list, but b + c comes first when it is made."""
    content = random_bpe(0, "bytes")
    letters = {text: token for text, token in content["model"]["vocab"].items() if len(text) == 1}
    names = [*letters, "bc", "ab", "abc"]
    content["model"] |= {
        "vocab": {text: token for token, text in enumerate(["<s>", *names])},
        "merges": [["ab", "c"], ["b", "c"], ["a", "b"], ["a", "bc"]],
    }
    ids = content["model"]["vocab"]
    pairs = BytePairs.read(content)
    assert pairs.parts("abc") == {ids[text] for text in ("a", "b", "c", "bc", "abc")}
    kept = _vocabulary(content, frozenset({ids["abc"]}))
    assert ids["ab"] not in kept.kept
    cut = Tokenizer.from_str(tokenizer_json(cut_tokenizer(content, kept)))
    assert cut.encode("abc").tokens == ["abc"]


def test_a_token_that_no_merges_make_needs_none() -> None:
    content = random_bpe(0, "whole words")
    content["model"]["vocab"]["ddddddddd"] = len(content["model"]["vocab"])
    pairs = BytePairs.read(content)
    assert pairs.parts("ddddddddd") == frozenset()
    kept = _vocabulary(content, frozenset({pairs.ids["ddddddddd"]}))
    cut = Tokenizer.from_str(tokenizer_json(cut_tokenizer(content, kept)))
    assert cut.encode("ddddddddd").tokens == ["ddddddddd"]


@pytest.mark.parametrize("kind", BPE_KINDS)
def test_how_long_tokens_are_does_not_depend_on_how_a_text_is_cut(kind: str) -> None:
    content = random_bpe(7, kind)
    content["added_tokens"].append({**content["added_tokens"][0], "id": 500, "content": "«é»"})
    assert token_sizes(content)[500] == 6
    del content["added_tokens"][-1]
    tokenizer, sizes = Tokenizer.from_str(tokenizer_json(content)), token_sizes(content)
    for text in [*random_bpe_texts(7, 20), "<s>ab"]:
        length = len(text.replace(" ", "\u2581" if kind == "fallback" else " ").encode())
        assert sizes[tokenizer.encode(text).ids].sum() == length
