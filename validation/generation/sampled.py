"""Samples texts from a model: it continues given beginnings at temperature 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seap_export.runtime.chat import read_chat_template
from seap_export.runtime.decoding.sampling import Sampler, Sampling
from seap_export.runtime.files import load_tokenizer
from validation.execution import Execution
from validation.generation.decoding import decode
from validation.generation.limits import text_limits
from validation.quiet import quiet_transformers
from validation.runtimes.pytorch.torch_batch import TorchBatch
from validation.runtimes.pytorch.torch_runner import open_torch_runner
from validation.runtimes.runner import Runner

#: Texts that are written together.
ROWS = 128


@dataclass(frozen=True)
class Beginning:
    """The beginning of a text that a model is to continue.

    Attributes:
        length: The most tokens of the whole text; more than `tokens` has.
        seed: Seed of the sampling; what is drawn does not depend on the other rows of a batch.
        shown: Token ids that the model reads before `tokens`: other texts, each followed by the author's separator.
    """

    tokens: tuple[int, ...]
    length: int
    seed: int
    shown: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.tokens) < self.length:
            raise ValueError("a beginning has a token at least, and is shorter than the text")


@dataclass(frozen=True)
class Author:
    """An open model that writes texts.

    Attributes:
        answer_start: Token ids with which an assistant's turn starts; none if there is no chat template.
        separator: Token ids of an empty line between two texts.
        longest: The most tokens of a text.
        shared: Texts that may get longer than this are written alone; see `TextLimits`.
    """

    runner: Runner
    ends: frozenset[int]
    answer_start: tuple[int, ...]
    separator: tuple[int, ...]
    longest: int
    shared: int


@contextmanager
def open_author(folder: Path, execution: Execution) -> Iterator[Author]:
    """Opens a model folder in torch, in float32."""
    tokenizer, limits = load_tokenizer(folder), text_limits(folder)
    template = read_chat_template(folder, tokenizer)
    ends, start = limits.ends, tuple[int, ...]()
    separator = tuple(tokenizer.encode("\n\n", add_special_tokens=False).ids)
    if template is not None:
        ends, start = ends | template.turn_ends(tokenizer), template.answer_start(tokenizer)
    with (
        quiet_transformers(),
        open_torch_runner(folder, execution) as model,
        model.head(),
        closing(TorchBatch(model)) as runner,
    ):
        yield Author(runner, ends, start, separator, limits.context, limits.shared)


def sampled_texts(author: Author, beginnings: Sequence[Beginning]) -> list[list[int]]:
    """The token ids of each text, from its beginning on; what follows is drawn at temperature 1.

    A text that was begun after others also ends before the separator, if that is one token.
    """
    texts = [_Text(beginning, author) for beginning in beginnings]
    together = [text for text in texts if text.longest <= author.shared]
    together.sort(key=lambda text: (text.begun.shown, text.begun.length, len(text.prompt)))
    alike = [list(rows) for _, rows in groupby(together, lambda text: text.begun.shown)]  # which runs once
    groups = [rows[first : first + ROWS] for rows in alike for first in range(0, len(rows), ROWS)]
    for rows in groups + [[text] for text in texts if text.longest > author.shared]:
        decode(author.runner, rows, _drawn)
    return [text.tokens for text in texts]


class _Text:
    """A text while it is sampled; a `Row` for `decode`."""

    def __init__(self, begun: Beginning, author: Author) -> None:
        self.begun = begun
        self.prompt: Sequence[int] = (*begun.shown, *begun.tokens)
        self.room = begun.length - len(begun.tokens)
        self.longest = len(self.prompt) + self.room
        self.tokens, self.is_done = list(begun.tokens), False
        self.sampler = Sampler(Sampling(temperature=1.0, seed=begun.seed), begun.tokens)
        self._ends, self._next = author.ends, author.separator if begun.shown else ()

    @property
    def last(self) -> int:
        return self.tokens[-1]

    def add(self, token: int) -> None:
        if self.is_done:
            return
        if self._next == (token,):
            self.is_done = True
            return
        self.tokens.append(token)
        self.is_done = token in self._ends or len(self.tokens) == self.begun.length


def _drawn(logits: NDArray[np.float32], texts: Sequence[_Text]) -> list[int]:
    return [text.last if text.is_done else text.sampler.choose(row) for row, text in zip(logits, texts, strict=True)]
