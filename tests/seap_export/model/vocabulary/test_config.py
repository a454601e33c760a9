"""Old and new ids: how a plan holds them, and how configs and tokenizer.json follow."""

from __future__ import annotations

from typing import Any

import pytest
from support.tokenizers import random_bpe

from seap_export.model.vocabulary.config import named_tokens, renumbered_config, renumbered_tokenizer_config
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.model.vocabulary.tokenizer import cut_tokenizer, fixed_tokens

KEPT = Vocabulary((0, 3, 5, 9), 10)


def test_configs_are_renumbered() -> None:
    others = {"hidden_size": 9, "pad_token_id": None, "sep_token_id": -1}
    config = {"vocab_size": 10, "bos_token_id": 3, "eos_token_id": [5, 9], **others}
    assert named_tokens(config, None, {"pad_token_id": 0}) == {0, 3, 5, 9}
    expected = {"vocab_size": 4, "bos_token_id": 1, "eos_token_id": [2, 3], **others}
    assert renumbered_config(config, KEPT) == expected
    config = {"added_tokens_decoder": {"5": {"content": "<s>"}}, "model_max_length": 9}
    expected = {"added_tokens_decoder": {"2": {"content": "<s>"}}, "model_max_length": 9}
    assert renumbered_tokenizer_config(config, KEPT) == expected
    assert renumbered_tokenizer_config({"chat_template": "x"}, KEPT) == {"chat_template": "x"}


def _template(number: int) -> dict[str, Any]:
    tokens = {"<s>": {"id": "<s>", "ids": [number], "tokens": ["<s>"]}}
    return {"type": "TemplateProcessing", "special_tokens": tokens}


def _roberta(number: int) -> dict[str, Any]:
    return {"type": "RobertaProcessing", "sep": ["</s>", number], "cls": ["<s>", 0]}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [(_template(5), _template(1)), (_roberta(5), _roberta(1)), ({"type": "ByteLevel"}, {"type": "ByteLevel"})],
)
def test_what_the_post_processor_and_padding_add_is_kept_and_renumbered(processor: dict, expected: dict) -> None:
    content = {
        **random_bpe(0, "bytes"),
        "post_processor": {"type": "Sequence", "processors": [processor]},
        "padding": {"pad_id": 7, "pad_token": "p"},
    }
    fixed = fixed_tokens(content)
    assert fixed == {0, 7} | ({5} if processor["type"] != "ByteLevel" else set())
    cut = cut_tokenizer(content, Vocabulary((0, 5, 7), 400))
    assert cut["post_processor"]["processors"] == [expected]
    assert cut["padding"]["pad_id"] == 2
    assert cut["added_tokens"] == content["added_tokens"]


@pytest.mark.parametrize(("kept", "of"), [((0,), 1), ((0, 2, 8, 15), 16), ((1, 3, 16), 17)])
def test_a_vocabulary_is_read_as_it_was_written(kept: tuple[int, ...], of: int) -> None:
    vocabulary = Vocabulary(kept, of)
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
    assert vocabulary.to_json()["tokens"] == len(vocabulary) == len(kept)
    assert [vocabulary.new_ids[token] for token in kept] == list(range(len(kept)))
    assert vocabulary.rows.tolist() == list(kept)


def test_the_bits_are_in_order_and_impossible_or_damaged_ones_are_refused() -> None:
    bits = Vocabulary((0, 2, 8), 9).to_json()
    assert bits == {"tokens": 3, "of": 9, "kept": "oIA="}
    for kept in ((), (1, 1), (2, 1), (-1, 1), (0, 4)):
        with pytest.raises(ValueError, match="sorted list"):
            Vocabulary(kept, 4)
    for change in ({"kept": "!!"}, {"kept": "oA=="}, {"tokens": 2}, {"of": 40}, {"of": "9"}):
        with pytest.raises(ValueError, match="bits of its vocabulary"):
            Vocabulary.from_json({**bits, **change})
