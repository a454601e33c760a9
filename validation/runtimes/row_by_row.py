"""Runners whose programs take one row at a time, so that the rows of a batch take turns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from validation.runtimes.runner import Logits, Runner

#: What a runner knows of a row.
Row = TypeVar("Row")


class RowByRow(Runner, Generic[Row]):
    """Runs one generation after another; `prefill` starts a new one, `append` and `step` continue it."""

    batches: ClassVar[bool] = False

    def __init__(self, *, all_logits: bool) -> None:
        self._all_logits = all_logits
        self._rows: list[Row] = []

    @abstractmethod
    def _new_row(self) -> Row:
        """Makes the state of a row that has no tokens yet."""

    @abstractmethod
    def _continued(self, row: Row, ids: NDArray[np.int64]) -> Logits:
        """Appends tokens to a row; gives the logits of all of them, or of the last one, [1 or more, V]."""

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs the prompts from empty caches, whose length is fixed; raises what `_continued` does."""
        self._rows = [self._new_row() for _ in lengths]
        computed = [
            self._continued(row, ids[:length]) for row, ids, length in zip(self._rows, input_ids, lengths, strict=True)
        ]
        tokens = input_ids.shape[1] if self._all_logits else 1
        logits = np.zeros((len(lengths), tokens, computed[0].shape[-1]), np.float32)
        for of_row, given in zip(logits, computed, strict=True):
            of_row[: len(given)] = given
        return logits

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        """Appends tokens to each row; it gives and raises what `prefill` does."""
        return np.stack([self._continued(row, ids) for row, ids in zip(self._rows, input_ids, strict=True)])
