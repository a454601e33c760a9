"""Holds the answer of a job to its labels, and says how sure it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from seap_export.runtime.files import encode
from seap_export.runtime.job import Job

#: The tokens of a label and of the end after it.
Tokens = tuple[int, ...]
#: In the place of the logits of all others, small enough for a probability of 0.
_NEVER = np.float32(-1e30)


def label_tokens(job: Job, tokenizer: Tokenizer) -> tuple[Tokens, ...]:
    """The tokens of each label, as they follow a prompt; none if answers are no labels, or begin within a token."""
    if not job.labels:
        return ()
    prompt = job.asked(dict.fromkeys(job.fields, ""))
    before = encode(tokenizer, prompt)
    number = len(before)
    whole = [encode(tokenizer, f"{prompt} {label}{job.end}") for label in job.labels]
    if any(ids[:number] != before or len(ids) == number for ids in whole):
        return ()
    return tuple(tuple(ids[number:]) for ids in whole)


class LabelChoice:
    """The labels that an answer may still become, token by token.

    Attributes:
        confidence: The probability of the tokens so far, of those that were possible at each: at the end, that of the
            label among all labels.
    """

    def __init__(self, labels: Sequence[Tokens]) -> None:
        """Takes the tokens of at least one label."""
        self.confidence = 1.0
        self._open, self._length = list(labels), 0

    def masked(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of finite logits [vocabulary] in which only tokens that a label goes on with are likely."""
        allowed = self._allowed
        masked = np.full_like(logits, _NEVER)
        masked[allowed] = logits[allowed]
        return masked

    def add(self, token: int, logits: NDArray[np.float32]) -> None:
        """Takes the token that was chosen, one of those allowed, from logits [vocabulary]."""
        allowed = logits[self._allowed].astype(np.float64)
        self.confidence *= float(np.exp(logits[token] - allowed.max()) / np.exp(allowed - allowed.max()).sum())
        self._open = [label for label in self._open if label[self._length : self._length + 1] == (token,)]
        self._length += 1

    @property
    def is_complete(self) -> bool:
        """Whether nothing follows any more."""
        return all(len(label) == self._length for label in self._open)

    @property
    def _allowed(self) -> list[int]:
        return sorted({label[self._length] for label in self._open if len(label) > self._length})
