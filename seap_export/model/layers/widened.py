"""Products with matrices of 16 bits, which take the memory of float32 only while they are multiplied."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional


class _WidenedProduct(torch.autograd.Function):
    """Gives the gradient of the input alone; until the way back, the weight is kept as it is stored."""

    @staticmethod
    def forward(context: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        context.save_for_backward(weight)
        return functional.linear(x, weight.float(), bias)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (weight,), (gradient,) = context.saved_tensors, gradients
        return gradient @ weight.float(), None, None


def widened_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x Wᵀ + b in float32, with W [out, in] of any dtype; only x may need a gradient."""
    product: torch.Tensor = _WidenedProduct.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return product
