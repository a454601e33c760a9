"""Turns prompts into token ids: in the chat template or as they are, and control tokens of users as plain letters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from seap_export.errors import UsageError
from seap_export.runtime.chat import ROLES, ChatTemplate, Message, Prompt, last_user_text
from seap_export.runtime.files import encode
from seap_export.runtime.job import Job, Record

#: The roles whose contents come from others, and hold no control tokens.
_GUARDED = ("user", "tool")
#: Characters without a meaning, one of which stands where a text is cut.
_MARKS = tuple(map(chr, range(0xE000, 0xE010)))


def prompt_ids(
    prompt: Prompt | Record,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    *,
    raw: bool | None = None,
    job: Job | None = None,
) -> list[int]:
    """The token ids of a prompt, including the special tokens that the tokenizer adds (BOS).

    A model that has learnt a job is asked in the form that it knows, unless `raw` says otherwise. Only such a model is
    asked with a record, whose fields its prompt is made from.

    What a user or a tool says holds no control token: the letters of one, such as `<|im_end|>`, are tokens of plain
    text. A raw text is the caller's own, with all that stands in it.
    """
    if isinstance(prompt, bytes) or not isinstance(prompt, Sequence | Mapping):
        raise TypeError(f"a prompt is a text or a list of messages, not {prompt!r:.40}")
    if job is not None and raw is None:
        asked = prompt if isinstance(prompt, str | Mapping) else last_user_text(prompt)
        mark = _mark_for(asked)
        return _encoded(job.asked(_without_controls(asked, tokenizer, mark)), tokenizer, mark)
    if isinstance(prompt, Mapping):
        raise UsageError(f"{prompt!r:.40} is a record, which only a model that has learnt a job takes; give a text")
    if isinstance(prompt, str):
        if template is None or raw or (raw is None and not template.takes_texts):
            return encode(tokenizer, prompt)
        prompt = [{"role": "user", "content": prompt}]
    if raw:
        raise UsageError("messages cannot be raw, for a chat template turns them into a text; give a text")
    if template is None:
        raise UsageError("this model has no chat template, which messages need; give a text")
    _refuse_others(prompt)
    mark = _mark_for(prompt)
    return _encoded(template.render(_guarded(prompt, tokenizer, mark), add_generation_prompt=True), tokenizer, mark)


def _mark_for(prompt: object) -> str:
    return next(mark for mark in _MARKS if mark not in str(prompt))


def _encoded(text: str, tokenizer: Tokenizer, mark: str) -> list[int]:
    """The token ids of a text that is cut at its marks."""
    first, *others = text.split(mark)
    ids = encode(tokenizer, first)
    for part in others:
        ids += encode(tokenizer, part, add_special_tokens=False)
    return ids


def _refuse_others(messages: Sequence[Message]) -> None:
    """Raises `UsageError` for anything but a list of messages."""
    if not messages or not all(isinstance(turn, Mapping) and isinstance(turn.get("role"), str) for turn in messages):
        raise UsageError('messages need a role and a content each; give [{"role": "user", "content": "..."}]')
    unknown = next((turn["role"] for turn in messages if turn["role"] not in ROLES), None)
    if unknown is not None:
        raise UsageError(f"no message has the role {unknown!r:.40}; use one of {', '.join(ROLES)}")


def _guarded(messages: Sequence[Message], tokenizer: Tokenizer, mark: str) -> list[Message]:
    """The messages with a mark within every control token of the contents of others."""
    return [
        {**turn, "content": _without_controls(turn["content"], tokenizer, mark)}
        if turn["role"] in _GUARDED and "content" in turn
        else turn
        for turn in messages
    ]


def _without_controls(content: Any, tokenizer: Tokenizer, mark: str) -> Any:
    """A text, or the parts of a content, with a mark within every control token."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    controls = sorted((text for text in special if len(text) > 1), key=len, reverse=True)
    if not controls:
        return content
    pattern = re.compile("|".join(map(re.escape, controls)))

    def cut(value: Any) -> Any:
        if isinstance(value, str):
            while pattern.search(value):  # what is left of one may hold another
                value = pattern.sub(lambda found: found[0][0] + mark + found[0][1:], value)
            return value
        if isinstance(value, list):
            return [cut(part) for part in value]
        return {key: cut(part) for key, part in value.items()} if isinstance(value, Mapping) else value

    return cut(content)
