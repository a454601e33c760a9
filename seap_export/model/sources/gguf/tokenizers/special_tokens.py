"""The special tokens of a GGUF file's tokenizer: which are kept whole, and which frame a text."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, processors

from seap_export.errors import InputError
from seap_export.model.sources.gguf.file import GgufFile
from seap_export.model.sources.gguf.tokenizers.vocabulary import (
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    special_token,
    token_list,
)


def add_special_tokens(file: GgufFile, tokenizer: Tokenizer) -> None:
    """Keeps special and user-defined tokens whole wherever they occur in a text."""
    tokens = token_list(file, "tokens", str)
    kinds = token_list(file, "token_type", int) if "tokenizer.ggml.token_type" in file.metadata else []
    if kinds and len(kinds) != len(tokens):
        raise InputError(f"{file.path}: the tokenizer's token types do not match its tokens; download the file again")
    special = [token for token, kind in zip(tokens, kinds, strict=False) if kind in (UNKNOWN, CONTROL)]
    special += [token for key in ("bos", "eos", "padding") if (token := special_token(file, key)) is not None]
    special_set = set(special)
    plain = [
        token for token, kind in zip(tokens, kinds, strict=False) if kind == USER_DEFINED and token not in special_set
    ]
    tokenizer.add_special_tokens([_added(file, token, special=True) for token in special])
    tokenizer.add_tokens([_added(file, token, special=False) for token in plain])


def _added(file: GgufFile, token: str, *, special: bool) -> AddedToken:
    keeping = file.form.spaces_kept_after
    byte_level = file.metadata.get("tokenizer.ggml.model") == "gpt2"
    takes_spaces = not byte_level and keeping is not None and token not in keeping
    return AddedToken(token, normalized=False, special=special, rstrip=takes_spaces)


def frame(file: GgufFile, tokenizer: Tokenizer, adds_bos: bool) -> None:
    """Makes the tokenizer add BOS and EOS as the file specifies; BOS by default if `adds_bos`."""
    first = _frame_token(file, "bos", adds_bos)
    last = _frame_token(file, "eos", False)
    used = {token for token in (first, last) if token is not None}
    if not used:
        return

    def around(text: str, sequence: int) -> list[str]:
        return [f"{token}:{sequence}" for token in (first, f"${text}", last) if token is not None]

    tokenizer.post_processor = processors.TemplateProcessing(
        single=around("A", 0),
        pair=around("A", 0) + around("B", 1),
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in sorted(used)],
    )


def _frame_token(file: GgufFile, key: str, default: bool) -> str | None:
    if not file.metadata.get(f"tokenizer.ggml.add_{key}_token", default):
        return None
    token = special_token(file, key)
    if token is None:
        raise InputError(
            f"{file.path}: the tokenizer adds a {key.upper()} token but names none; give the Hugging Face folder"
        )
    return token
