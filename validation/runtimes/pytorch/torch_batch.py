"""Runs a model folder in torch as `Runner` says, several prompts together, a layer at a time.

Batches come padded on the right and are run padded on the left: windows and rotations then see the distances that the
tokens of a row have when it runs alone. What all rows begin with, such as examples before each question, runs once.
Prompts take "eager" attention, which gives padding finite numbers, and what follows the fastest one: "eager" repeats
keys and values for the query heads in each step, which takes longer than the rest of a step in large batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from seap_export.model.layers.stock_pass import BatchPass
from validation.runtimes.pytorch.torch_runner import TorchRunner
from validation.runtimes.runner import Logits, Runner, common_start


class TorchBatch(Runner):
    """Runs one generation after another; see `Runner`. Only the logits of each row's last token are computed."""

    runtime: ClassVar[str] = "torch"

    def __init__(self, runner: TorchRunner) -> None:
        self._runner = runner
        self._passage = BatchPass()
        self._is_real = torch.zeros((0, 0), dtype=torch.int64)

    def prefill(self, input_ids: NDArray[np.int64], lengths: Sequence[int], room: int = 0) -> Logits:
        """Runs prompts from an empty cache, which grows; returns [B, 1, V]."""
        self._runner.use_attention("eager")
        rows, width = len(lengths), max(lengths)
        shifted = torch.zeros((rows, width), dtype=torch.int64)
        self._is_real = torch.zeros_like(shifted)
        for row, length in enumerate(lengths):
            shifted[row, width - length :] = torch.from_numpy(input_ids[row, :length])
            self._is_real[row, width - length :] = 1
        self._passage = BatchPass()
        common = common_start(input_ids, lengths)
        can_rewind = all(sublayer.can_rewind for sublayer in self._runner.spec.sublayers)
        if not (common and can_rewind):
            return self._run(shifted)
        self._runner.extend(self._passage, shifted.new_tensor(input_ids[:1, :common]))
        apart = width - common
        self._passage.spread([max(0, length - apart) for length in lengths])
        return self._run(shifted[:, common:].contiguous())

    def append(self, input_ids: NDArray[np.int64]) -> Logits:
        """Appends tokens, int64 [B, S], to each row; returns [B, 1, V] and raises what `prefill` does."""
        self._runner.use_attention("sdpa")
        new = torch.from_numpy(np.ascontiguousarray(input_ids))
        self._is_real = torch.cat([self._is_real, torch.ones_like(new)], dim=1)
        return self._run(new)

    def keep(self, rows: Sequence[int]) -> None:
        self._passage.keep(rows)
        self._is_real = self._is_real[list(rows)]

    def close(self) -> None:
        """Frees the cache; who opened the model closes it."""
        self._passage = BatchPass()

    def _run(self, input_ids: torch.Tensor) -> Logits:
        mask = None if self._is_real.all() else self._is_real
        hidden = self._runner.extend(self._passage, input_ids, mask)
        return self._runner.logits(hidden[:, -1:])
