"""Which tokens a variant keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from seap_export.errors import UsageError
from seap_export.vocabulary.pairs import BytePairs
from seap_export.vocabulary.table import Vocabulary
from seap_export.vocabulary.tokenizer import fixed_tokens

__all__ = ["MULTIPLE", "VocabularySize", "choose_tokens", "parse_size"]

#: How many tokens are kept: a number, those that the texts use (`auto`), or all of them.
VocabularySize = int | Literal["auto", "all"]
#: `auto` keeps a multiple of this many tokens, which suits kernels.
MULTIPLE = 256


def parse_size(text: str) -> VocabularySize:
    """Reads the value of --vocabulary.

    Raises:
        UsageError: It is neither a positive number nor one of the words.
    """
    if text == "auto" or text == "all":
        return "auto" if text == "auto" else "all"
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**31):
        raise UsageError(f"--vocabulary {text:.40} is not a number of tokens; give a number, auto or all")
    return int(text)


def choose_tokens(
    tokenizer: Mapping[str, Any],
    used: frozenset[int],
    size: int | Literal["auto"],
    vocab_size: int,
) -> Vocabulary:
    """The tokens to keep: characters or bytes, added tokens, `used` ones, and further ones in the order of the merges.

    With each token, those that are made on the way to it are kept, so that a text whose tokens are all kept is cut
    into the same tokens.

    Args:
        tokenizer: The content of tokenizer.json.
        used: The tokens that must be kept: those of the task's texts, and those that configs name.
        size: How many tokens to keep; `auto`: what must be kept, rounded up to a multiple of `MULTIPLE`.
        vocab_size: Number of tokens of the dense model.

    Raises:
        InputError: The vocabulary of such a tokenizer cannot be cut.
        UsageError: The number is too small, or not below that of the dense model.
    """
    pairs = BytePairs.read(tokenizer)
    texts = {token: text for text, token in pairs.ids.items()}
    kept = set(pairs.alphabet | fixed_tokens(tokenizer) | used)
    for token in sorted(kept & texts.keys()):
        kept |= pairs.made(texts[token])
    wanted = _number(size, len(kept), vocab_size)
    for _, token in sorted(pairs.merges.values()):  # the most frequent of the tokenizer's training text first
        if len(kept) >= wanted:
            break
        if token not in kept:
            made = pairs.made(texts[token]) - kept
            if len(kept) + len(made) <= wanted:
                kept |= made
    return Vocabulary(tuple(sorted(kept)), vocab_size)


def _number(size: int | Literal["auto"], least: int, vocab_size: int) -> int:
    """How many tokens to keep, given how many must be."""
    if size == "auto":
        return min(vocab_size, -(-least // MULTIPLE) * MULTIPLE)
    if size >= vocab_size:
        raise UsageError(f"--vocabulary {size} cuts nothing: the model has {vocab_size} tokens; give fewer, or all")
    if size < least:
        raise UsageError(
            f"--vocabulary {size} is too small: the texts, the bytes and the added tokens need {least}; "
            f"give at least {least}, or auto"
        )
    return size
