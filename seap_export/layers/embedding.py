"""The embedding of tokens, and of their positions where a model has one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seap_export.families import ModelSpec
from seap_export.layers.batches import Batch

__all__ = ["Embedding"]


@dataclass(frozen=True)
class Embedding:
    """Tables of which only the rows that occur are converted.

    Attributes:
        tokens: [vocab_size, hidden_size].
        positions: What is added at each position, [rows, hidden_size]; None: nothing.
    """

    tokens: torch.Tensor
    positions: torch.Tensor | None = None

    def __call__(self, spec: ModelSpec, batch: Batch) -> torch.Tensor:
        """The stream before the first layer at the real tokens of a batch, float32 [tokens, hidden_size]."""
        rows = self.tokens[batch.input_ids[batch.real]].to(batch.device).float()
        multiplier = spec.block.embedding_multiplier
        rows = rows if multiplier == 1.0 else rows * multiplier
        if self.positions is None:
            return rows
        numbers = batch.real.cumsum(1)[batch.real] - 1 + (spec.position_offset or 0)
        return rows + self.positions[numbers].to(batch.device).float()
