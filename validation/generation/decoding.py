"""The decoding loop for a batch of rows; the caller chooses the tokens, greedily or by sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from seap_export.errors import ArtifactError
from validation.runtimes.runner import Keeps, Runner, padded


class Row(Protocol):
    """A row of a batch, as `decode` needs it: a prompt and the tokens that are generated after it.

    Attributes:
        prompt: The token ids that it begins with.
        room: The most tokens that may follow the prompt.
        is_done: Whether the text has ended; tokens that are added then have no effect.
    """

    prompt: Sequence[int]
    room: int
    is_done: bool

    @property
    def last(self) -> int:
        """The id of the token that was added last."""

    def add(self, token: int) -> None:
        """Adds the id of the next token, and sets `is_done` if the text ends there."""


Some = TypeVar("Some", bound=Row)


def decode(
    runner: Runner, rows: Sequence[Some], choose: Callable[[NDArray[np.float32], Sequence[Some]], Sequence[int]]
) -> None:
    """Generates tokens for all rows until they are done.

    Rows that are done leave the batch if the runner can drop them (`Keeps`); otherwise they go on, with no effect.

    Args:
        choose: The next token of each row, given logits [rows, vocabulary], which are finite for rows that go on.
    """
    lengths = [len(row.prompt) for row in rows]
    prefilled = runner.prefill(padded([row.prompt for row in rows]), lengths, max(row.room for row in rows))
    is_last_only = prefilled.shape[1] == 1
    logits = prefilled[np.arange(len(rows)), [0 if is_last_only else length - 1 for length in lengths]]
    while True:
        largest = logits.max(axis=1)  # NaN if one is
        if not all(np.isfinite(value) or row.is_done for value, row in zip(largest, rows, strict=True)):
            raise ArtifactError("its logits are NaN or infinite; the model is damaged, export again")
        for row, token in zip(rows, choose(logits, rows), strict=True):
            row.add(token)
        going = [number for number, row in enumerate(rows) if not row.is_done]
        if not going:
            return
        if isinstance(runner, Keeps) and len(going) < len(rows):
            runner.keep(going)
            rows = [rows[number] for number in going]
        logits = runner.step([row.last for row in rows])
