"""Block-wise weight quantisation in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from seap_export.pruning.rounding.grid import BlockQuantization, best_scales, levels, padded_blocks

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
    """Rounds each weight to the nearest level of its block, whose scale has the least squared error.

    A 4-bit matrix that is on such levels already comes back as it is.

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
    blocks = padded_blocks(matrix, how)
    scales, zero_points = best_scales(blocks, how)
    packed = _pack(levels(blocks, scales, zero_points, how.bits).to(torch.uint8), how.bits)
    return packed, scales.squeeze(-1), _pack(zero_points.squeeze(-1).to(torch.uint8), how.bits)


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
