"""Greedy decoding with any runner, in batches of prompts of similar length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from seap_export.corpus import AnswerRule
from seap_export.runtime.text import TextStream
from validation.generation.decoding import decode
from validation.runtimes.runner import Follows, Runner

TokenIds = Sequence[int]


@dataclass(frozen=True)
class Ends:
    """The conditions that end a generated text.

    Attributes:
        tokens: Tokens that end a text, such as EOS.
        most: The most tokens that are generated.
        context: The most tokens of prompt and text together.
        shared: Rows that may get longer than this run alone, because a batch would change or refuse them.
    """

    tokens: frozenset[int]
    rule: AnswerRule
    most: int
    context: int
    shared: int

    def room(self, prompt: TokenIds) -> int:
        """The most tokens that may be generated after a prompt."""
        return min(self.most, self.context - len(prompt))


@dataclass(frozen=True)
class Continuation:
    """The text that was generated after a prompt.

    Attributes:
        text: The text without special tokens, up to the first stop.
        tokens: How many tokens were generated, without one that ends the text.
        is_stopped: Whether the text was ended by a token or a stop, not by its length.
        end: The token or stop that ended it, as text; "" if it was cut off.
    """

    text: str
    tokens: int
    is_stopped: bool
    end: str = ""


def continue_prompts(
    runner: Runner,
    tokenizer: Tokenizer,
    prompts: Sequence[TokenIds],
    ends: Ends,
    batch_size: int,
    on_done: Callable[[object], object] = lambda done: None,
) -> list[Continuation]:
    """Continues each prompt with the most likely tokens."""
    continuations: dict[int, Continuation] = {}
    for batch in _batches(prompts, ends, batch_size):
        rows = [_Row(tokenizer, prompts[number], ends) for number in batch]
        if isinstance(runner, Follows):
            _follow(runner, rows)
        else:
            decode(runner, rows, _likeliest)
        for number, row in zip(batch, rows, strict=True):
            continuations[number] = row.continuation()
            on_done(row)
    return [continuations[number] for number in range(len(prompts))]


def _batches(prompts: Sequence[TokenIds], ends: Ends, size: int) -> Iterator[list[int]]:
    """Places of prompts that run together; the longest come first, so that memory runs out at once."""
    order = sorted(range(len(prompts)), key=lambda number: (-len(prompts[number]), number))
    alone = [number for number in order if len(prompts[number]) + ends.most > ends.shared]
    yield from ([number] for number in alone)
    together = order[len(alone) :]
    yield from (together[start : start + size] for start in range(0, len(together), size))


class _Row:
    """A prompt and the text generated after it so far; a `Row` for `decode`."""

    def __init__(self, tokenizer: Tokenizer, prompt: TokenIds, ends: Ends) -> None:
        self.prompt, self.room = prompt, ends.room(prompt)
        self.is_done, self.last = False, 0
        self._ends, self._stream = ends, TextStream(tokenizer, prompt)
        self._tokenizer, self._text, self._tokens, self._is_stopped, self._end_text = tokenizer, "", 0, False, ""

    def add(self, token: int) -> None:
        """Adds the next token, unless the text has ended."""
        if self.is_done:
            return
        if token in self._ends.tokens:
            self._is_stopped, self._end_text = True, self._tokenizer.id_to_token(token) or ""
            self.is_done = True
            return
        self.last = token
        self._tokens += 1
        piece = self._stream.add(token)
        self._text += piece
        self._is_stopped = bool(piece) and self._ends.rule.before_stop(self._text) is not None
        self.is_done = self._is_stopped or self._tokens == self.room

    def continuation(self) -> Continuation:
        """Completes the text and returns it; no token can be added after that."""
        text = self._text + self._stream.end()
        before = self._ends.rule.before_stop(text)
        if before is None:
            return Continuation(text, self._tokens, self._is_stopped, self._end_text)
        end = next(stop for stop in self._ends.rule.stop if text.startswith(stop, len(before)))
        return Continuation(before, self._tokens, is_stopped=True, end=end)


def _likeliest(logits: NDArray[np.float32], rows: Sequence[_Row]) -> list[int]:
    """The most likely token of each row, of logits [rows, vocabulary]."""
    tokens: list[int] = logits.argmax(axis=1).tolist()
    return tokens


def _follow(runner: Follows, rows: Sequence[_Row]) -> None:
    tokens = runner.follow([row.prompt for row in rows], max(row.room for row in rows))
    for row, following in zip(rows, tokens, strict=True):
        for token in following:
            row.add(token)
