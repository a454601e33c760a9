"""The LM head, which is computed in float32 for a part of the vocabulary at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

#: Rows in float32 at a time.
_VOCABULARY_BLOCK = 8192


@dataclass(frozen=True)
class Head:
    """The weight and bias of an LM head.

    Attributes:
        weight: The weight, [vocab_size, hidden_size].
        bias: The bias, [vocab_size]; None: there is none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    def rows(self, tokens: torch.Tensor) -> Head:
        """The LM head for some tokens alone, in that order."""
        return Head(self.weight[tokens], None if self.bias is None else self.bias[tokens])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product of the weight with x [tokens, hidden_size], plus the bias: float32 [tokens, vocab_size]."""
        product = torch.empty(len(x), len(self.weight), device=x.device)
        for rows in self._blocks():
            product[:, rows] = functional.linear(x, self.weight[rows].to(x.device).float())
        return product if self.bias is None else product.add_(self.bias.to(x.device).float())

    def transposed(self, values: torch.Tensor) -> torch.Tensor:
        """The product of values [tokens, vocab_size] with the weight, float32 [tokens, hidden_size]."""
        total = torch.zeros(len(values), self.weight.shape[1], device=values.device)
        for rows in self._blocks():
            total += values[:, rows] @ self.weight[rows].to(values.device).float()
        return total

    def _blocks(self) -> Iterator[slice]:
        for start in range(0, len(self.weight), _VOCABULARY_BLOCK):
            yield slice(start, start + _VOCABULARY_BLOCK)
