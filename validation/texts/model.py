"""The tokenizer and the chat template of a model folder, with which those of runtimes are compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from seap_export.common.json_file import read_artifact
from seap_export.errors import InputError
from seap_export.runtime.chat import read_chat_template
from seap_export.runtime.files import encode, load_tokenizer
from validation.runtimes.texts import Conversation

#: Gives bytes as byte-level tokenizers spell them.
_AS_LETTERS = ByteLevel(add_prefix_space=False, use_regex=False)
#: Stands for an assistant's turn, to find what follows it.
_ANSWER = "what the assistant says"


class ModelTexts:
    """The tokenizer and the chat template of a model folder, as the reference for those of runtimes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._tokenizer = folder, load_tokenizer(folder)
        self._template = read_chat_template(folder, self._tokenizer)
        self._bytes = _letters_of_bytes(folder, self._tokenizer)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The ids of a text, with the tokens that the tokenizer puts around it or without."""
        return encode(self._tokenizer, text, add_special_tokens=special)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids)))

    def render(self, conversation: Conversation) -> str | None:
        """The text of a conversation, BOS included; None: there is no template, or it refuses the conversation."""
        if self._template is None:
            return None
        try:
            return self._template.prefix + self._template.render(
                conversation.messages, add_generation_prompt=conversation.prompts, tools=conversation.tools
            )
        except InputError:
            return None

    def can_read(self, text: str) -> bool:
        """Whether there is a token for each byte of a text; what becomes of others is for each library to say."""
        if self._bytes is None:
            return True
        pieces = _AS_LETTERS.pre_tokenize_str(text)
        return all(letter in self._bytes for letters, _ in pieces for letter in letters)

    def unambiguous(self, ids: Sequence[int]) -> list[int]:
        """The ids but those that tokenizer_config.json alone calls special, which not every library leaves out."""
        named = {} if self._template is None else self._template.special_tokens
        path = self._folder / "tokenizer_config.json"
        values = [*named.values(), *(read_artifact(path).values() if path.is_file() else ())]
        tokens = {self._tokenizer.token_to_id(text) for text in values if isinstance(text, str)}
        return [number for number in ids if number not in tokens - self._special().keys()]

    def special_tokens(self) -> list[str]:
        """The text of every special token, in the order of ids."""
        return [str(token.content) for _, token in sorted(self._special().items())]

    def ends(self) -> set[int]:
        """The tokens that end a text: those of the configs, and a special one that follows a turn in the template."""
        ids: Any = None
        for path in (self._folder / "config.json", self._folder / "generation_config.json"):
            given = read_artifact(path).get("eos_token_id") if path.is_file() else None
            ids = ids if given is None or given == [] else given
        turns = ({"role": "user", "content": "hello"}, {"role": "assistant", "content": _ANSWER})
        text = self.render(Conversation("", turns, prompts=False)) or ""
        following = self.encode(text.rpartition(_ANSWER)[2].strip(), special=False) if _ANSWER in text else []
        ends = {*(ids if isinstance(ids, list) else [] if ids is None else [ids])}
        return ends | {token for token in following[:1] if token in self._special()}

    def _special(self) -> dict[int, Any]:
        added = self._tokenizer.get_added_tokens_decoder()
        return {number: token for number, token in added.items() if token.special}


def _letters_of_bytes(folder: Path, tokenizer: Tokenizer) -> frozenset[str] | None:
    """The bytes that have a token, as letters; None: the tokenizer is not byte-level, or has one for the others."""
    values = read_artifact(folder / "tokenizer.json")
    model = values["model"]
    if model.get("type") != "BPE" or model.get("unk_token") or '"ByteLevel"' not in json.dumps(values["decoder"]):
        return None
    return frozenset(letter for letter in ByteLevel.alphabet() if tokenizer.token_to_id(letter) is not None)
