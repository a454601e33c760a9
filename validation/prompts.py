"""The token sequences that a parity run compares: each prompt alone, then a batch of three."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from seap_export.errors import ArtifactError, InputError
from validation.torch_runner import quiet_transformers

__all__ = ["BATCH_ROWS", "Case", "parity_cases", "prompt_digests", "tokenize_prompts"]

TokenIds = tuple[int, ...]
BATCH_ROWS = 3


@dataclass(frozen=True)
class Case:
    """Prompts that are run together; rows shorter than the longest are padded on the right."""

    name: str
    rows: tuple[TokenIds, ...]

    def __post_init__(self) -> None:
        if not self.rows or not all(self.rows):
            raise ValueError(f"case {self.name}: every row needs a token")


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


def parity_cases(sequences: Sequence[TokenIds]) -> tuple[Case, ...]:
    """Each sequence alone, as "prompt 0" and so on, then "batch of 3": three rows of different lengths.

    The batch takes the first three sequences whose lengths differ. If there are fewer, it goes through the
    sequences again, cutting each to a half, a quarter and so on of its length until that length is new; where
    halving ends in no new length, the sequence is cut, or repeated, to the smallest length not in use.
    """
    alone = tuple(Case(f"prompt {index}", (sequence,)) for index, sequence in enumerate(sequences))
    return (*alone, Case(f"batch of {BATCH_ROWS}", _batch_rows(sequences)))


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
