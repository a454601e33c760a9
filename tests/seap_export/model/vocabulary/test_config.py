"""Token ids in configs and in tokenizer.json follow."""

from __future__ import annotations

import pytest
from support.tokenizers import random_bpe

from seap_export.model.vocabulary.config import named_tokens, renumbered_config, renumbered_tokenizer_config
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.model.vocabulary.tokenizer import cut_tokenizer, fixed_tokens

KEPT = Vocabulary((0, 3, 5, 9), 10)


def test_configs_are_renumbered() -> None:
    config = {
        "vocab_size": 10,
        "hidden_size": 9,
        "bos_token_id": 3,
        "eos_token_id": [5, 9],
        "pad_token_id": None,
        "sep_token_id": -1,
    }
    assert named_tokens(config, None, {"pad_token_id": 0}) == {0, 3, 5, 9}
    assert renumbered_config(config, KEPT) == {
        "vocab_size": 4,
        "hidden_size": 9,
        "bos_token_id": 1,
        "eos_token_id": [2, 3],
        "pad_token_id": None,
        "sep_token_id": -1,
    }


def test_tokenizer_configs_are_renumbered() -> None:
    config = {"added_tokens_decoder": {"5": {"content": "<s>"}}, "model_max_length": 9}
    expected = {"added_tokens_decoder": {"2": {"content": "<s>"}}, "model_max_length": 9}
    assert renumbered_tokenizer_config(config, KEPT) == expected
    assert renumbered_tokenizer_config({"chat_template": "x"}, KEPT) == {"chat_template": "x"}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (
            {"type": "TemplateProcessing", "special_tokens": {"<s>": {"id": "<s>", "ids": [5], "tokens": ["<s>"]}}},
            {"type": "TemplateProcessing", "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        ),
        (
            {"type": "RobertaProcessing", "sep": ["</s>", 5], "cls": ["<s>", 0]},
            {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]},
        ),
        ({"type": "ByteLevel"}, {"type": "ByteLevel"}),
    ],
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
