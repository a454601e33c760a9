"""Runs a model folder in torch, a layer at a time, as a model of the lm-evaluation-harness.

The harness's class for transformers models holds the whole model and computes the logits of all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from validation.runners.torch_runner import TorchRunner
from validation.zero_shot.batch_lm import BatchLM, TokenIds, padded

__all__ = ["TorchLM"]


class TorchLM(BatchLM):
    """Log-likelihoods computed by torch.

    Args:
        runner: The model.
        arguments: Those of `BatchLM`.
    """

    def __init__(self, runner: TorchRunner, tokenizer: Any, **arguments: Any) -> None:
        super().__init__(tokenizer, **arguments)
        self._runner = runner

    def _logits(
        self, batches: Sequence[Sequence[TokenIds]], kept: dict[TokenIds, int]
    ) -> Iterator[Sequence[NDArray[np.floating]]]:
        sizes = [(len(batch), max(map(len, batch))) for batch in batches]
        blocks = self._runner.blocks([rows * self._runner.passing_bytes(tokens) for rows, tokens in sizes])
        for block in blocks:
            ids = [[torch.from_numpy(padded(batches[place]))] for place in block]
            passages = self._runner.start(ids, cached=False)
            self._runner.pass_layers(passages, keep=block.stop < len(batches))
            with self._runner.head():
                for place, passage in zip(block, passages, strict=True):
                    yield self._of_batch(passage.hidden[0], batches[place], kept)

    def _of_batch(
        self, hidden: torch.Tensor, batch: Sequence[TokenIds], kept: dict[TokenIds, int]
    ) -> list[NDArray[np.floating]]:
        """The logits of the kept tokens of all sequences in one product."""
        rows = [own[len(ids) - kept[ids] : len(ids)] for own, ids in zip(hidden, batch, strict=True)]
        logits = self._runner.logits(torch.cat(rows)[None])[0]
        return np.split(logits, np.cumsum([len(own) for own in rows])[:-1])
