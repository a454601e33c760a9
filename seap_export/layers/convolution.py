"""The channels of a short convolution: gated, causal and depth-wise, over a padded batch, without a cache."""

from __future__ import annotations

import torch
from torch.nn import functional

from seap_export.families import Convolution
from seap_export.layers.batches import Batch
from seap_export.layers.operands import Operands

__all__ = ["convolution_channels"]


def convolution_channels(
    operands: Operands, convolution: Convolution, stream: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """The channels, [tokens, channels]: a text sees zeros before its first token, and no padding."""
    x = operands.read(convolution.output, stream)
    before, after, values = (operands.linear(projection, x) for projection in convolution.readers)
    kernel = operands.tensor("kernel")
    assert kernel is not None
    rows = functional.pad(batch.padded(before * values).transpose(1, 2), (convolution.kernel_size - 1, 0))
    convolved = functional.conv1d(rows, kernel, operands.tensor("kernel_bias"), groups=convolution.conv_dim)
    return after * batch.packed(convolved.transpose(1, 2))
