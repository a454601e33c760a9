"""Helpers for recurrences that are computed chunk by chunk: gated delta nets and Mamba-2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

#: Tokens of a chunk: within it, memory grows with the square of the tokens, beyond it as they do.
_CHUNK = 64


def in_chunks(values: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Values [batch, tokens, heads * ...] as [batch, heads, chunks, tokens of a chunk, ...], filled up with zeros."""
    chunk = min(_CHUNK, values.shape[1])
    filled = functional.pad(values, (0, 0, 0, -values.shape[1] % chunk))
    return filled.unflatten(1, (-1, chunk)).unflatten(3, tuple(shape)).movedim(3, 1)


def pairwise_decay(decay: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The decay from the start of a chunk to each token, and from each token (column) to each (row).

    Args:
        decay: Decays in log space, [batch, heads, chunks, tokens of a chunk].

    Returns:
        The first in log space, of the shape of `decay`; the second as factors, [..., tokens, tokens], 0 where the
        column comes after the row.
    """
    since_start = decay.cumsum(-1)
    differences = since_start.unsqueeze(-1) - since_start.unsqueeze(-2)
    causal = torch.ones_like(differences[0, 0, 0], dtype=torch.bool).tril()
    return since_start, differences.masked_fill(~causal, -torch.inf).exp()
