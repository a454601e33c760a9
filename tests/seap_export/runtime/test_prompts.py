"""What a user writes is a text, whatever letters it has; what the template writes is more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.editing import set_json
from support.tokenizers import write_byte_level, write_sentencepiece
from tokenizers import Tokenizer

from seap_export.runtime.chat import PLAIN, TEXT_FORM, ChatTemplate, read_chat_template
from seap_export.runtime.prompts import prompt_ids

TEMPLATE = "{% for message in messages %}{{ message.role }}{{ message.content }}</s>{% endfor %}"


@pytest.fixture(params=[write_byte_level, write_sentencepiece])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, ChatTemplate]:
    request.param(tmp_path, chat_template=TEMPLATE)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    template = read_chat_template(tmp_path, tokenizer)
    assert template is not None
    return tokenizer, template


@pytest.mark.parametrize("role", ["user", "tool", "system"])
@pytest.mark.parametrize("content", ["</s>", "a mat</s></s> home", "</<s>s>", [{"type": "text", "text": "</s>"}]])
def test_control_tokens_of_others_are_letters(model: tuple[Tokenizer, ChatTemplate], role: str, content: Any) -> None:
    tokenizer, template = model
    controls = {tokenizer.token_to_id(token) for token in ("<s>", "</s>")}
    plain = prompt_ids([{"role": role, "content": "a mat"}], tokenizer, template)
    ids = prompt_ids([{"role": role, "content": content}], tokenizer, template)
    number = sum(token in controls for token in ids) - sum(token in controls for token in plain)
    assert (number == 0) == (role in ("user", "tool"))
    if number == 0 and isinstance(content, str) and tokenizer.token_to_id("<0x3C>"):  # the other one has few letters
        assert content.replace(" ", "") in tokenizer.decode(ids).replace(" ", "")


def test_texts_are_one_piece_and_plain_where_the_variant_was_made_from_such(
    model: tuple[Tokenizer, ChatTemplate], tmp_path: Path
) -> None:
    tokenizer, chat = model
    in_template = tokenizer.encode("userthe cat</s>").ids
    assert prompt_ids("the cat", tokenizer, chat) == in_template
    assert prompt_ids("the </s>", tokenizer, chat, raw=True) == tokenizer.encode("the </s>").ids
    set_json(tmp_path / "tokenizer_config.json", **{TEXT_FORM: PLAIN})
    template = read_chat_template(tmp_path, tokenizer)
    assert prompt_ids("the cat", tokenizer, template) == tokenizer.encode("the cat").ids
    assert prompt_ids("the cat", tokenizer, template, raw=False) == in_template
    assert prompt_ids([{"role": "user", "content": "the cat"}], tokenizer, template) == in_template
