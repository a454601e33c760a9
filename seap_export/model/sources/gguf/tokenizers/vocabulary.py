"""The tokens of a GGUF file: their texts, kinds and scores, and the special ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seap_export.errors import InputError
from seap_export.model.sources.gguf.file import GgufFile

#: Kinds of tokens in `tokenizer.ggml.token_type`.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4


def vocabulary(file: GgufFile) -> dict[str, int]:
    tokens = token_list(file, "tokens", str)
    ids = {token: index for index, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise InputError(f"{file.path}: the tokenizer lists a token twice; give the Hugging Face folder instead")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and len(tokens) > embedding.shape[0]:
        raise InputError(
            f"{file.path}: {len(tokens)} tokens but {embedding.shape[0]} embeddings; give the Hugging Face folder"
        )
    return ids


def token_list(file: GgufFile, key: str, kind: type) -> Sequence[Any]:
    """The list `tokenizer.ggml.{key}`, whose items are of type `kind`."""
    value = file.metadata.get(f"tokenizer.ggml.{key}")
    if not isinstance(value, list) or not value or not isinstance(value[0], kind):
        raise InputError(f"{file.path}: the tokenizer's '{key}' are missing; give the Hugging Face folder instead")
    return value


def special_id(file: GgufFile, key: str) -> int | None:
    """The id of the special token `key` ("bos", "eos", "eot", "eom", "padding", "unknown"); None if there is none."""
    value = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    if value is None:
        return None
    count = len(token_list(file, "tokens", str))
    if not isinstance(value, int) or not 0 <= value < count:
        raise InputError(
            f"{file.path}: the {key} token {value!r} is not one of {count} tokens; download the file again"
        )
    return value


def special_token(file: GgufFile, key: str) -> str | None:
    """The text of the special token `key`; None if there is none."""
    index = special_id(file, key)
    return None if index is None else token_list(file, "tokens", str)[index]
