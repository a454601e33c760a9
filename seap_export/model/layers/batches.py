"""Batches of token sequences of similar length, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids.

    Attributes:
        input_ids: int64 [batch, length].
        real: bool [batch, length], False at padding.
        device: Where its hidden states are computed; the two above stay on the CPU.
    """

    input_ids: torch.Tensor
    real: torch.Tensor
    device: torch.device = _CPU

    def __post_init__(self) -> None:
        if self.input_ids.shape != self.real.shape or self.input_ids.dim() != 2:
            raise ValueError("input_ids and real must be matrices of one shape")

    @cached_property
    def _positions(self) -> torch.Tensor:
        """Where the real tokens are in the flattened batch, int64."""
        return torch.nonzero(self.real.flatten())[:, 0].to(self.device)

    @cached_property
    def lengths(self) -> torch.Tensor:
        """Number of real tokens in each row, int64 [batch], on the device."""
        return self.real.sum(1).to(self.device)

    @cached_property
    def num_tokens(self) -> int:
        """Number of real tokens in all rows."""
        return int(self.real.sum())

    def packed(self, values: torch.Tensor) -> torch.Tensor:
        """The values of the real tokens alone, [tokens, width], of values [batch, length, width]."""
        return values.flatten(0, 1).index_select(0, self._positions)

    def padded(self, values: torch.Tensor) -> torch.Tensor:
        """The reverse of `packed`, with zeros at padding."""
        empty = values.new_zeros(self.real.numel(), values.shape[1])
        return empty.index_copy(0, self._positions, values).unflatten(0, self.real.shape)


def length_buckets(sequences: Sequence[Sequence[int]], max_tokens: int, device: torch.device = _CPU) -> list[Batch]:
    """Sorts sequences by length and divides them into batches of at most `max_tokens` positions.

    A batch holds at least one sequence, however long.
    """
    batches: list[Batch] = []
    bucket: list[Sequence[int]] = []
    for sequence in sorted(sequences, key=lambda ids: (len(ids), list(ids))):
        if bucket and len(sequence) * (len(bucket) + 1) > max_tokens:
            batches.append(_pad(bucket, device))
            bucket = []
        bucket.append(sequence)
    if bucket:
        batches.append(_pad(bucket, device))
    return batches


def _pad(sequences: Sequence[Sequence[int]], device: torch.device) -> Batch:
    length = max(len(ids) for ids in sequences)
    input_ids = torch.zeros(len(sequences), length, dtype=torch.long)
    real = torch.zeros(len(sequences), length, dtype=torch.bool)
    for row, ids in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        real[row, : len(ids)] = True
    return Batch(input_ids, real, device)


def token_weights(batches: Sequence[Batch], texts: Sequence[tuple[Sequence[int], float]]) -> list[torch.Tensor]:
    """The probability of each real token's text, in units of the mean, for each batch; float32 [tokens]."""
    weight_of = {key: sum(same) / len(same) for key, same in _by_text(texts).items()}
    mean = sum(len(ids) * weight for ids, weight in texts) / sum(len(ids) for ids, _ in texts)
    weights = []
    for batch in batches:
        rows = [tuple(ids[real].tolist()) for ids, real in zip(batch.input_ids, batch.real, strict=True)]
        weights.append(torch.tensor([weight_of[row] / mean for row in rows]).repeat_interleave(batch.real.sum(1)))
    return weights


def _by_text(texts: Sequence[tuple[Sequence[int], float]]) -> dict[tuple[int, ...], list[float]]:
    """The weights of each text; one that belongs to several tasks has several."""
    weights: dict[tuple[int, ...], list[float]] = {}
    for ids, weight in texts:
        weights.setdefault(tuple(ids), []).append(weight)
    return weights
