"""Block-wise weight quantisation in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from converters.onnx.precision import BlockQuantization

__all__ = ["QuantizedMatrix", "dequantize", "quantize"]

#: Candidate scales for a block of 4-bit weights, as fractions of the scale that clips nothing.
_SHRINK = tuple(1 - 0.04 * step for step in range(9))
#: Elements that are quantised at a time.
_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [N, K] quantised in blocks along K; the last block is padded with zeros.

    Attributes:
        packed: uint8 [N, blocks, block_size * bits / 8]; the first of two 4-bit values is in the lower half of a byte.
        scales: float32 [N, blocks].
        zero_points: uint8 [N, ceil(blocks * bits / 8)], packed likewise; None: 2^(bits - 1) for every block.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None


def quantize(matrix: torch.Tensor, how: BlockQuantization) -> QuantizedMatrix:
    """Rounds each weight to the nearest level of its block.

    A block's scale minimises its squared error: clipping the largest weights of a 4-bit block often costs less than
    the coarser steps that they would require.

    Args:
        matrix: [N, K], finite, any float dtype.
        how: Bits, block size and symmetry.
    """
    rows = max(1, _ELEMENTS // matrix.shape[1])
    made: tuple[torch.Tensor, ...] = ()
    for start in range(0, len(matrix), rows):
        parts = _quantize_rows(matrix[start : start + rows].float(), how)
        made = made or tuple(part.new_empty((len(matrix), *part.shape[1:])) for part in parts)
        for whole, part in zip(made, parts, strict=True):  # concatenating them at the end would hold all of them twice
            whole[start : start + rows] = part
    packed, scales, zero_points = made
    return QuantizedMatrix(packed, scales, None if how.symmetric else zero_points)


def dequantize(matrix: QuantizedMatrix, how: BlockQuantization, columns: int) -> torch.Tensor:
    """The weights as a runtime reconstructs them, float32 [N, columns]."""
    n, blocks, _ = matrix.packed.shape
    values = _unpack(matrix.packed, how.bits).reshape(n, blocks, how.block_size).float()
    if matrix.zero_points is None:
        zero_points = torch.full((n, blocks), float(1 << (how.bits - 1)))
    else:
        zero_points = _unpack(matrix.zero_points, how.bits)[:, :blocks].float()
    return ((values - zero_points.unsqueeze(-1)) * matrix.scales.unsqueeze(-1)).reshape(n, -1)[:, :columns]


def _quantize_rows(matrix: torch.Tensor, how: BlockQuantization) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    n, columns = matrix.shape
    filled = torch.nn.functional.pad(matrix, (0, -columns % how.block_size))
    blocks = filled.view(n, -1, how.block_size)
    scales, zero_points = _best_scales(blocks, how)
    packed = _pack(_levels(blocks, scales, zero_points, how.bits).to(torch.uint8), how.bits)
    return packed, scales.squeeze(-1), _pack(zero_points.squeeze(-1).to(torch.uint8), how.bits)


def _best_scales(blocks: torch.Tensor, how: BlockQuantization) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of each block, both [N, blocks, 1]."""
    full, zero_points = _symmetric(blocks, how.bits) if how.symmetric else _asymmetric(blocks, how.bits)
    if how.bits == 8:
        return full, zero_points
    best, lowest = full, _error(blocks, full, zero_points, how.bits)
    for fraction in _SHRINK[1:]:
        scales = full * fraction
        error = _error(blocks, scales, zero_points, how.bits)
        best, lowest = torch.where(error < lowest, scales, best), torch.minimum(error, lowest)
    return best, zero_points


def _symmetric(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps the largest weight to the lowest level, because there is one more level below zero than above."""
    middle = 1 << (bits - 1)
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    return _not_zero(largest / -middle), torch.full_like(largest, float(middle))


def _asymmetric(blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes the levels span the block's weights and zero, which is always a level."""
    top = (1 << bits) - 1
    lowest = blocks.amin(-1, keepdim=True).clamp_(max=0.0)
    highest = blocks.amax(-1, keepdim=True).clamp_(min=0.0)
    scales = _not_zero((highest - lowest) / top)
    return scales, (-lowest / scales).round_().clamp_(0, top)


def _not_zero(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def _error(blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, bits: int) -> torch.Tensor:
    """Squared error of each block, [N, blocks, 1]."""
    levels = _levels(blocks, scales, zero_points, bits)
    return levels.sub_(zero_points).mul_(scales).sub_(blocks).square_().sum(-1, keepdim=True)


def _levels(blocks: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor, bits: int) -> torch.Tensor:
    return (blocks / scales).round_().add_(zero_points).clamp_(0, (1 << bits) - 1)


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs values into bytes along the last axis; an odd number of 4-bit values is padded with a zero."""
    if bits == 8:
        return values
    even = torch.nn.functional.pad(values, (0, values.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)


def _unpack(packed: torch.Tensor, bits: int) -> torch.Tensor:
    if bits == 8:
        return packed
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
