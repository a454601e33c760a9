"""Token sequences of similar length together, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Batch", "length_buckets"]


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids.

    Attributes:
        input_ids: int64 [batch, length].
        real: bool [batch, length], False at padding.
    """

    input_ids: torch.Tensor
    real: torch.Tensor

    def __post_init__(self) -> None:
        if self.input_ids.shape != self.real.shape or self.input_ids.dim() != 2:
            raise ValueError("input_ids and real must be matrices of one shape")


def length_buckets(sequences: Sequence[Sequence[int]], max_tokens: int) -> list[Batch]:
    """Sorts sequences by length and cuts them into batches of at most `max_tokens` positions.

    A batch holds at least one sequence, however long.
    """
    batches: list[Batch] = []
    bucket: list[Sequence[int]] = []
    for sequence in sorted(sequences, key=lambda ids: (len(ids), list(ids))):
        if bucket and len(sequence) * (len(bucket) + 1) > max_tokens:
            batches.append(_pad(bucket))
            bucket = []
        bucket.append(sequence)
    if bucket:
        batches.append(_pad(bucket))
    return batches


def _pad(sequences: Sequence[Sequence[int]]) -> Batch:
    length = max(len(ids) for ids in sequences)
    input_ids = torch.zeros(len(sequences), length, dtype=torch.long)
    real = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, ids in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        real[row, : len(ids)] = True
    return Batch(input_ids, real)
