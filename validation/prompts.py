"""The token sequences that parity compares: prompts alone and padded, one token, random tokens, a long prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from seap_export.errors import ArtifactError, InputError
from seap_export.runtime.files import refuse_excess, too_slow
from seap_export.runtime.limits import watched
from validation.quiet import quiet_transformers

TokenIds = tuple[int, ...]
BATCH_ROWS = 3
RANDOM_TOKENS, _RANDOM_SEED = 64, 0
#: A long prompt runs in calls of 512 tokens. Only its last 64 tokens' logits are compared: all would fill the disk.
CALL_TOKENS, KEPT_TOKENS = 512, 64


@dataclass(frozen=True)
class Case:
    """Prompts that run together, shorter rows padded on the right, and the tokens that then follow one at a time.

    Attributes:
        forced: For each row the tokens of its decode steps, the same number for all.
        call_tokens: A single row runs in calls of this many tokens, each with the cache of the calls before; None:
            in one call.
        kept: The logits of this many tokens at the prompt's end are compared; None: of all.
        in_float: Whether a graph that rounds activations runs it with float activations, too.
        filled: How many tokens a cache holds before the prompt, of made-up keys and values; 0: it begins empty.
    """

    name: str
    rows: tuple[TokenIds, ...]
    forced: tuple[TokenIds, ...]
    call_tokens: int | None = None
    kept: int | None = None
    in_float: bool = False
    filled: int = 0

    def __post_init__(self) -> None:
        if not self.rows or not all(self.rows):
            raise ValueError(f"case {self.name}: every row needs a token")
        if len(self.forced) != len(self.rows) or len(set(map(len, self.forced))) != 1:
            raise ValueError(f"case {self.name}: every row needs the same number of decode steps")
        if self.call_tokens is not None and (self.call_tokens < 1 or len(self.rows) > 1):
            raise ValueError(f"case {self.name}: only a single row runs in several calls, of at least one token")
        if self.kept is not None and not 1 <= self.kept <= len(self.last_call):
            raise ValueError(f"case {self.name}: kept logits are those of 1 to {len(self.last_call)} tokens")

    @property
    def calls(self) -> tuple[TokenIds, ...]:
        """The token ids of each call that runs the first row: all of it, or parts of `call_tokens` tokens."""
        row, size = self.rows[0], self.call_tokens or len(self.rows[0])
        return tuple(row[start : start + size] for start in range(0, len(row), size))

    @property
    def last_call(self) -> TokenIds:
        """The token ids of the last call that runs the first row."""
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
        raise InputError("parity needs at least one prompt; use a larger corpus")
    tokenizer = load_tokenizer(folder)
    with quiet_transformers():  # prompts longer than the tokenizer's own limit are cut here
        encoded = watched(lambda: tokenizer(list(prompts)).input_ids, sum(map(len, prompts)), too_slow)
    sequences = tuple(tuple(ids[:max_tokens]) for ids in encoded)
    for index, sequence in enumerate(sequences):
        if not sequence:
            raise InputError(f"prompt {index} has no tokens; remove it")
        if max(sequence) >= vocab_size:
            raise ArtifactError(
                f"{folder}: its tokenizer gives token id {max(sequence)}, its model has a vocabulary of {vocab_size}; "
                "use the tokenizer that belongs to the model"
            )
    return sequences


def load_tokenizer(folder: Path) -> Any:
    """Loads the tokenizer of a model folder as transformers has it; raises `ArtifactError`."""
    from transformers import AutoTokenizer

    if (folder / "tokenizer.json").is_file():
        refuse_excess(folder / "tokenizer.json")
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damaged files raise nearly anything, including a bare Exception of `tokenizers`
        raise ArtifactError(f"{folder}: its tokenizer cannot be loaded: {' '.join(str(error).split())}") from error


def parity_cases(
    texts: Sequence[TokenIds], *, vocab_size: int, max_prompt_tokens: int, long_tokens: int, steps: int
) -> tuple[Case, ...]:
    """Each text alone, as "prompt 0" and so on, and then, by name:

    - "batch of 3": three rows of different lengths. It takes the first three prompts whose lengths differ; if there
      are fewer, it goes through the prompts again, cutting each to a half, a quarter and so on of its length until
      that length is new; if halving gives no new length, the prompt is cut or repeated to the smallest unused
      length.
    - "one token": the first of the first text, so that the whole cache comes from single steps.
    - "random tokens": tokens of the whole vocabulary, from a fixed seed.
    - "long prompt": the prompts one after the other, again and again, in several calls.

    The decode steps feed the tokens that follow in the text, which starts again at its end; after random tokens, those
    of the first text.

    Args:
        texts: Token ids of each prompt and, where the text is longer, of what follows it.
        vocab_size: Random tokens are below it.
        max_prompt_tokens: Texts are cut to prompts of this many tokens.
        long_tokens: Tokens of the long prompt.
        steps: Decode steps, at least 1.
    """
    prompts = [text[:max_prompt_tokens] for text in texts]
    chance = np.random.default_rng(_RANDOM_SEED)
    drawn = tuple(chance.integers(0, vocab_size, min(RANDOM_TOKENS, long_tokens)).tolist())
    long = [token for prompt in prompts for token in prompt]
    size = min(CALL_TOKENS, -(-long_tokens // 2))
    last = long_tokens - (long_tokens - 1) // size * size
    batch = _batch_rows([len(prompt) for prompt in prompts])
    return (
        *(_case(f"prompt {index}", [(text, len(prompts[index]))], steps) for index, text in enumerate(texts)),
        _case(f"batch of {BATCH_ROWS}", [(texts[index], length) for index, length in batch], steps, in_float=True),
        _case("one token", [(texts[0], 1)], steps),
        Case("random tokens", (drawn,), (tuple(islice(cycle(texts[0]), steps)),), in_float=True),
        _case(
            "long prompt", [(long, long_tokens)], steps, call_tokens=size, kept=min(KEPT_TOKENS, last), in_float=True
        ),
    )


def _case(name: str, rows: Sequence[tuple[Sequence[int], int]], steps: int, **arguments: Any) -> Case:
    """A case of rows that are the beginnings, of the given lengths, of texts repeated without end."""
    tokens = [tuple(islice(cycle(text), length + steps)) for text, length in rows]
    lengths = [length for _, length in rows]
    return Case(
        name,
        tuple(ids[:length] for ids, length in zip(tokens, lengths, strict=True)),
        tuple(ids[length:] for ids, length in zip(tokens, lengths, strict=True)),
        **arguments,
    )


def _batch_rows(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Chooses for each row of the batch the index of its prompt and its number of tokens."""
    rows: dict[int, int] = {}
    for index, length in enumerate(lengths):
        if len(rows) < BATCH_ROWS:
            rows.setdefault(length, index)
    for index in cycle(range(len(lengths))):
        if len(rows) == BATCH_ROWS:
            return [(row, length) for length, row in rows.items()]
        rows[_new_length(lengths[index], rows)] = index
    raise ValueError("a batch needs a prompt")


def _new_length(length: int, used: Container[int]) -> int:
    while length in used:
        length //= 2
    return length or next(smallest for smallest in range(1, BATCH_ROWS + 1) if smallest not in used)
