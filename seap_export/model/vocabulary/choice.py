"""Chooses which tokens a variant keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from seap_export.errors import UsageError
from seap_export.model.vocabulary.pairs import BytePairs
from seap_export.model.vocabulary.table import Vocabulary
from seap_export.model.vocabulary.tokenizer import fixed_tokens

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
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 0 < int(text) < 2**31):
        raise UsageError(f"--vocabulary {text:.40} is not a number of tokens; give a number, auto or all")
    return int(text)


def required_tokens(tokenizer: Mapping[str, Any], pairs: BytePairs, used: frozenset[int]) -> frozenset[int]:
    """The tokens that must be kept: characters or bytes, added tokens, `used` ones, and what they are merged from.

    So a text whose tokens are all kept is cut into the same tokens (docs/research/vocabulary.md).

    Args:
        tokenizer: The content of tokenizer.json.
        used: The tokens of the task's texts, and those that configs name.
    """
    kept = pairs.alphabet | fixed_tokens(tokenizer) | used
    return kept.union(*(pairs.parts(text) for text, token in pairs.ids.items() if token in kept))


def check_size(size: int | Literal["auto"], least: int, vocab_size: int) -> None:
    """Refuses a number of tokens.

    Args:
        least: How many tokens must be kept.
        vocab_size: Number of tokens of the dense model.

    Raises:
        UsageError: The number is too small, or not below that of the dense model.
    """
    if size == "auto":
        return
    if size >= vocab_size:
        raise UsageError(f"--vocabulary {size} cuts nothing: the model has {vocab_size} tokens; give fewer, or all")
    if size < least:
        raise UsageError(
            f"--vocabulary {size} is too small: the texts, the bytes and the added tokens need {least}; "
            f"give at least {least}, or auto"
        )


def choose_tokens(
    pairs: BytePairs, required: frozenset[int], size: int | Literal["auto"], vocab_size: int
) -> Vocabulary:
    """The tokens to keep: the required ones, and further ones in the order of merges, each with its parts.

    Args:
        required: The tokens that must be kept (`required_tokens`).
        size: How many tokens to keep; `auto`: the required ones, rounded up to a multiple of `MULTIPLE`.
        vocab_size: Number of tokens of the dense model.

    Raises:
        UsageError: See `check_size`.
    """
    check_size(size, len(required), vocab_size)
    wanted = min(vocab_size, -(-len(required) // MULTIPLE) * MULTIPLE) if size == "auto" else size
    texts = {token: text for text, token in pairs.ids.items()}
    kept, before = set(required), -1
    while before < len(kept) < wanted:  # again if a token was passed over whose parts were too many
        before = len(kept)
        for _, token in sorted(pairs.merges.values()):  # the most frequent of the tokenizer's training text first
            if token not in kept and len(kept) < wanted:
                missing = pairs.parts(texts[token]) - kept
                if len(kept) + len(missing) <= wanted:
                    kept |= missing
    return Vocabulary(tuple(sorted(kept)), vocab_size)
