"""MLX's affine quantisation in groups, with the same bits as `mlx.core.quantize` on the CPU.

A matrix that is on the levels of a grid already keeps them: of 4 bits from -8 to 7, with a bias of -8 scales, which
every float type holds if it holds the scale.

It is computed here so that any machine can write it and all write the same bytes; MLX itself rounds differently on a
GPU (the formula: https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html, of which the
end of the range with the larger magnitude is kept exactly).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.scales import best_scales, levels, on_grid, padded_blocks

#: The usual grid of the levels that a matrix keeps if it is on them.
GRID = BlockQuantization(4, 64, whole_blocks=True)

#: Elements that are quantised at a time.
_ELEMENTS = 1 << 22
#: Elements that are tried on the grid at a time, which takes several copies.
_FEWER = 1 << 18
#: The smallest scale.
_SMALLEST = 1e-7
#: Numbers whose bits lie in whole bytes, the first in the lowest bits.
_PACK = 8


@dataclass(frozen=True)
class QuantizedRows:
    """A matrix [rows, columns] as MLX stores it.

    Attributes:
        weight: uint32 [rows, columns * bits / 32], the first of the numbers in a word in its lowest bits.
        scales: [rows, columns / group], in the dtype of the matrix.
        biases: Offsets, in the shape and dtype of the scales; a weight is number * scale + bias.
    """

    weight: torch.Tensor
    scales: torch.Tensor
    biases: torch.Tensor


def quantize(matrix: torch.Tensor, bits: int, group: int) -> QuantizedRows:
    """Quantises a matrix some rows at a time.

    Args:
        matrix: float [rows, columns]; scales and biases get its dtype.
    """
    rows, columns = matrix.shape
    weight = torch.empty(rows, columns * bits // 32, dtype=torch.int32)
    scales, biases = (torch.empty(rows, columns // group, dtype=matrix.dtype) for _ in range(2))
    at_once = max(1, _ELEMENTS // columns)
    for start in range(0, rows, at_once):
        part = slice(start, start + at_once)
        weight[part], scales[part], biases[part] = _quantized(matrix[part], bits, group)
    return QuantizedRows(weight.view(torch.uint32), scales, biases)


def kept(matrix: torch.Tensor, dtype: torch.dtype, grid: BlockQuantization) -> QuantizedRows | None:
    """Stores a matrix that is on a grid unchanged; None: it is not on it, or the dtype does not hold its scales.

    Args:
        matrix: float [rows, columns], of whole blocks.
    """
    parts = []
    for rows in matrix.split(max(1, _FEWER // matrix.shape[1])):
        blocks = padded_blocks(rows.float(), grid)
        scales, points = best_scales(blocks, grid)
        stored = scales.to(dtype)
        if not torch.equal(on_grid(blocks, stored.float(), points, grid), blocks):
            return None
        biases = (stored.float() * -points).to(dtype)
        if not torch.equal(biases.float(), stored.float() * -points):
            return None
        numbers = levels(blocks, stored.float(), points, grid)
        parts.append((_packed(numbers.flatten(1), grid.bits), stored.squeeze(-1), biases.squeeze(-1)))
    words, scales, biases = (torch.cat(part) for part in zip(*parts, strict=True))
    return QuantizedRows(words.view(torch.uint32), scales, biases)


def dequantize(stored: QuantizedRows, bits: int) -> torch.Tensor:
    """Dequantises a matrix that MLX stores, to float32 [rows, columns]."""
    numbers = _unpacked(stored.weight, bits).float()
    rows, columns = numbers.shape
    grouped = numbers.view(rows, stored.scales.shape[1], -1)
    grouped.mul_(stored.scales.float().unsqueeze(-1)).add_(stored.biases.float().unsqueeze(-1))
    return grouped.view(rows, columns)


def _quantized(matrix: torch.Tensor, bits: int, group: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    grouped, largest = matrix.float().unflatten(1, (-1, group)), 2**bits - 1
    low, high = grouped.amin(-1), grouped.amax(-1)
    low_is_edge = low.abs() > high.abs()
    scale = ((high - low) / largest).clamp(min=_SMALLEST)
    scale = torch.where(low_is_edge, scale, -scale)
    edge = torch.where(low_is_edge, low, high)
    steps = (edge / scale).round()
    has_edge = steps != 0
    scale = torch.where(has_edge, edge / steps, scale)
    bias = torch.where(has_edge, edge, 0.0)
    numbers = ((grouped - bias.unsqueeze(-1)) / scale.unsqueeze(-1)).round_().clamp_(0, largest)
    return _packed(numbers.flatten(1), bits), scale.to(matrix.dtype), bias.to(matrix.dtype)


def _packed(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs whole numbers, float32 [rows, columns], into int32 words [rows, columns * bits / 32]."""
    packs, places = numbers.long().unflatten(1, (-1, _PACK)), torch.arange(_PACK) * bits
    whole = (packs << places).sum(-1, keepdim=True)  # no bit is in two of them
    octets = whole.view(torch.uint8)[..., :bits]
    return octets.flatten(1).view(torch.int32)  # of a little-endian machine, as every one that MLX runs on is


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    octets = words.contiguous().view(torch.uint8).unflatten(1, (-1, bits)).long()
    whole = (octets << torch.arange(bits) * 8).sum(-1, keepdim=True)
    return ((whole >> torch.arange(_PACK) * bits) & (1 << bits) - 1).flatten(1)
