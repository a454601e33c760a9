"""The token sequences that a parity run compares: prompts alone and padded, one token, random ones, a long prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from seap_export.errors import ArtifactError, InputError
from validation.torch_runner import quiet_transformers

__all__ = ["BATCH_ROWS", "Case", "parity_cases", "prompt_digests", "tokenize_prompts"]

TokenIds = tuple[int, ...]
BATCH_ROWS = 3
_RANDOM_TOKENS, _RANDOM_SEED = 64, 0
#: Of a long prompt: tokens a call, and those at its end whose logits are compared; all others would fill the disk.
_CALL_TOKENS, _KEPT_TOKENS = 512, 64


@dataclass(frozen=True)
class Case:
    """Prompts that are run together; rows shorter than the longest are padded on the right.

    Attributes:
        name: As reports call it.
        rows: Token ids.
        call_tokens: A single row is run so many tokens at a time, each call behind the cache of the one before; None:
            at once.
        kept: The logits of so many tokens at the end are compared; None: of all.
    """

    name: str
    rows: tuple[TokenIds, ...]
    call_tokens: int | None = None
    kept: int | None = None

    def __post_init__(self) -> None:
        if not self.rows or not all(self.rows):
            raise ValueError(f"case {self.name}: every row needs a token")
        if self.call_tokens is not None and (self.call_tokens < 1 or len(self.rows) > 1):
            raise ValueError(f"case {self.name}: a single row is run in parts of at least one token")
        if self.kept is not None and not 1 <= self.kept <= len(self.last_call):
            raise ValueError(f"case {self.name}: the logits of the last call are kept, of one token or more")

    @property
    def calls(self) -> tuple[TokenIds, ...]:
        """The parts that the first row is run in."""
        row, size = self.rows[0], self.call_tokens or len(self.rows[0])
        return tuple(row[start : start + size] for start in range(0, len(row), size))

    @property
    def last_call(self) -> TokenIds:
        """The last of them."""
        return self.calls[-1]


def prompt_digests(prompts: Sequence[str]) -> tuple[str, ...]:
    """The SHA-256 of each prompt's UTF-8 text, in hexadecimal."""
    return tuple(hashlib.sha256(prompt.encode("utf-8")).hexdigest() for prompt in prompts)


def tokenize_prompts(
    folder: Path, prompts: Sequence[str], *, max_tokens: int, vocab_size: int
) -> tuple[TokenIds, ...]:
    """Each prompt's first `max_tokens` tokens, with the special tokens that the folder's tokenizer adds.

    Raises:
        InputError: There is no prompt, or one has no tokens.
        ArtifactError: The tokenizer cannot be loaded or gives ids outside the vocabulary.
    """
    if not prompts:
        raise InputError("parity needs at least one prompt")
    tokenizer = _load_tokenizer(folder)
    with quiet_transformers():  # prompts longer than the tokenizer's own limit are cut here
        sequences = tuple(tuple(tokenizer(prompt).input_ids[:max_tokens]) for prompt in prompts)
    for index, sequence in enumerate(sequences):
        if not sequence:
            raise InputError(f"prompt {index} has no tokens; remove it")
        if max(sequence) >= vocab_size:
            raise ArtifactError(
                f"{folder}: its tokenizer gives token id {max(sequence)}, its model has a vocabulary of {vocab_size}"
            )
    return sequences


def _load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damaged files raise nearly anything, a bare Exception of `tokenizers` included
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded: {' '.join(str(error).split())}") from error


def parity_cases(sequences: Sequence[TokenIds], *, vocab_size: int, long_tokens: int) -> tuple[Case, ...]:
    """Each sequence alone, as "prompt 0" and so on, and then, by name:

    - "batch of 3": three rows of different lengths. It takes the first three sequences whose lengths differ; if there
      are fewer, it goes through the sequences again, cutting each to a half, a quarter and so on of its length until
      that length is new; where halving ends in no new length, the sequence is cut, or repeated, to the smallest
      length not in use.
    - "one token": the first of the first sequence, so that the whole cache comes from single steps.
    - "random tokens": of the whole vocabulary, from a fixed seed.
    - "long prompt": the sequences one after the other, again and again, in several calls.

    Args:
        sequences: Token ids of the prompts.
        vocab_size: Random tokens are below it.
        long_tokens: Tokens of the long prompt.
    """
    alone = tuple(Case(f"prompt {index}", (sequence,)) for index, sequence in enumerate(sequences))
    chance = np.random.default_rng(_RANDOM_SEED)
    drawn = tuple(chance.integers(0, vocab_size, min(_RANDOM_TOKENS, long_tokens)).tolist())
    text = tuple(islice(cycle(token for sequence in sequences for token in sequence), long_tokens))
    size = min(_CALL_TOKENS, -(-long_tokens // 2))
    last = long_tokens - (long_tokens - 1) // size * size
    return (
        *alone,
        Case(f"batch of {BATCH_ROWS}", _batch_rows(sequences)),
        Case("one token", (sequences[0][:1],)),
        Case("random tokens", (drawn,)),
        Case("long prompt", (text,), call_tokens=size, kept=min(_KEPT_TOKENS, last)),
    )


def _batch_rows(sequences: Sequence[TokenIds]) -> tuple[TokenIds, ...]:
    by_length: dict[int, TokenIds] = {}
    for sequence in sequences:
        by_length.setdefault(len(sequence), sequence)
    rows = dict(list(by_length.items())[:BATCH_ROWS])
    for sequence in cycle(sequences):
        if len(rows) == BATCH_ROWS:
            return tuple(rows.values())
        length = _new_length(len(sequence), rows)
        repeats = -(-length // len(sequence))
        rows[length] = (sequence * repeats)[:length]
    raise ValueError("a batch needs a sequence")


def _new_length(length: int, used: dict[int, TokenIds]) -> int:
    while length in used:
        length //= 2
    return length or next(smallest for smallest in range(1, BATCH_ROWS + 1) if smallest not in used)
