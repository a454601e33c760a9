"""The channels of a short convolution: gated, causal and depth-wise, over a padded batch, without a cache."""

from __future__ import annotations

import torch
from torch.nn import functional

from seap_export.model.families import Convolution
from seap_export.model.layers.batches import Batch
from seap_export.model.layers.sublayers.operands import Operands


def convolution_channels(
    operands: Operands, convolution: Convolution, stream: torch.Tensor, batch: Batch
) -> torch.Tensor:
    """The channels, [tokens, channels]: a text sees zeros before its first token, and no padding."""
    x = operands.read(convolution.output, stream)
    before, after, values = (operands.linear(projection, x) for projection in convolution.readers)
    kernel = operands.tensor("kernel")
    assert kernel is not None
    gated = before * values
    operands.see("gated inputs", lambda: gated)
    mixed = convolved(gated, kernel, operands.tensor("kernel_bias"), batch)
    operands.see("convolution", lambda: mixed)
    return after * mixed


def convolved(values: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, batch: Batch) -> torch.Tensor:
    """The causal convolution of each channel, [tokens, channels], given kernels [channels, 1, size]."""
    rows = functional.pad(batch.padded(values).transpose(1, 2), (kernel.shape[2] - 1, 0))
    return batch.packed(functional.conv1d(rows, kernel, bias, groups=len(kernel)).transpose(1, 2))
