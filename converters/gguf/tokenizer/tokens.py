"""The tokens of a tokenizer.json: their texts and kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seap_export.errors import InputError

#: Kinds of tokens in `tokenizer.ggml.token_type`.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6


def refuse(what: str) -> InputError:
    """The error of a tokenizer that GGUF files cannot hold."""
    return InputError(f"GGUF files cannot hold this tokenizer: {what}; use another format")


@dataclass(frozen=True)
class Tokens:
    """The tokens by id, one for each row of the embedding.

    Attributes:
        texts: Text of each token; ids without a token are called `[PADn]`, as llama.cpp's converter does.
    """

    texts: list[str]
    kinds: list[int]
    ids: Mapping[str, int]

    @classmethod
    def of(cls, tokenizer: Mapping[str, Any], count: int) -> Tokens:
        """Reads the tokens of a parsed tokenizer.json for an embedding of `count` rows."""
        model = tokenizer.get("model") or {}
        if model.get("type") != "BPE":
            raise refuse(f"its model is {model.get('type')}, and only BPE can be written")
        added = {entry["content"]: entry for entry in tokenizer.get("added_tokens") or []}
        ids = {**model["vocab"], **{text: entry["id"] for text, entry in added.items()}}
        texts, kinds = [f"[PAD{index}]" for index in range(count)], [_UNUSED] * count
        for text, index in ids.items():
            if index >= count:
                raise refuse(f"token {index} has no embedding, of which there are {count}")
            if kinds[index] != _UNUSED:
                raise refuse(f"token {index} has two texts")
            texts[index], kinds[index] = text, cls._kind(text, added.get(text), model)
        clash = next((text for index, text in enumerate(texts) if kinds[index] == _UNUSED and text in ids), None)
        if clash is not None:
            raise refuse(f"'{clash}' is a token of its own")
        return cls(texts, kinds, ids)

    @staticmethod
    def _kind(text: str, added: Mapping[str, Any] | None, model: Mapping[str, Any]) -> int:
        if model.get("byte_fallback"):
            if text == model.get("unk_token"):
                return _UNKNOWN
            if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
                return _BYTE
        if added is None:
            return _NORMAL
        return _CONTROL if added.get("special") else _USER_DEFINED
