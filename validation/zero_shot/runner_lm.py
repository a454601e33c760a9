"""Runs a written folder in any runtime as a model of the lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from validation.runners.runner import Runner
from validation.zero_shot.batch_lm import BatchLM, TokenIds, padded

__all__ = ["RunnerLM"]


class RunnerLM(BatchLM):
    """Log-likelihoods computed by a runtime, whether it gives logits or log-probabilities.

    Args:
        runner: The opened folder; it gives the logits of all tokens of a prompt.
        arguments: Those of `BatchLM`.
    """

    def __init__(self, runner: Runner, tokenizer: Any, **arguments: Any) -> None:
        super().__init__(tokenizer, **arguments)
        self._runner = runner

    def _logits(
        self, batches: Sequence[Sequence[TokenIds]], kept: dict[TokenIds, int]
    ) -> Iterator[Sequence[NDArray[np.floating]]]:
        for batch in batches:
            logits = self._runner.prefill(padded(batch), [len(ids) for ids in batch])
            yield [logits[row, : len(ids)] for row, ids in enumerate(batch)]
