"""Block-wise weight quantisation in the layout of ONNX Runtime's MatMulNBits and GatherBlockQuantized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from converters.onnx.precision import kernel_bits
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.scales import MOST_STEPS, best_scales, levels, padded_blocks, short_scales

#: Elements that are quantised at a time.
_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class QuantizedMatrix:
    """A matrix [N, K] quantised in blocks along K; the last block is padded with zeros.

    Attributes:
        packed: uint8 [N, blocks, block_size * bits / 8]; see `planes`.
        scales: float32 [N, blocks].
        zero_points: uint8 [N, ceil(blocks * bits / 8)], the first of two 4-bit values in the lower half of a byte;
            None: that of symmetric blocks.
    """

    packed: torch.Tensor
    scales: torch.Tensor
    zero_points: torch.Tensor | None

    @property
    def steps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales that are multiples of a step: how many each has, int8 [N, blocks], and the step of each row, [N]."""
        largest = self.scales.abs().amax(1, keepdim=True)
        rows, counts = torch.zeros_like(largest).flatten(), torch.zeros_like(self.scales)
        for most in range(1, MOST_STEPS + 1):
            step = short_scales(largest / most)
            each = (self.scales / step).round_()
            is_exact = (each * step == self.scales).all(1)
            rows[is_exact], counts[is_exact] = step[is_exact].flatten(), each[is_exact]
        if not counts.all():
            raise ValueError("the scales of a row are no multiples of one step")
        return counts.to(torch.int8), rows


def scales_of(steps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The way back from `QuantizedMatrix.steps`: float32 [N, blocks]."""
    return steps.float() * rows.float().unsqueeze(1)


def quantize(matrix: torch.Tensor, grid: BlockQuantization) -> QuantizedMatrix:
    """Rounds each weight to the nearest level of its block, whose scale has the least squared error.

    A matrix that is on such levels already comes back as it is.

    Args:
        matrix: [N, K], finite, any float dtype.
    """
    rows = max(1, _ELEMENTS // matrix.shape[1])
    made: tuple[torch.Tensor, ...] = ()
    for start in range(0, len(matrix), rows):
        parts = _quantize_rows(matrix[start : start + rows].float(), grid)
        made = made or tuple(part.new_empty((len(matrix), *part.shape[1:])) for part in parts)
        for whole, part in zip(made, parts, strict=True):  # concatenating them at the end would hold all of them twice
            whole[start : start + rows] = part
    packed, scales, zero_points = made
    return QuantizedMatrix(packed, scales, None if grid.symmetric else zero_points)


def dequantize(matrix: QuantizedMatrix, grid: BlockQuantization, columns: int) -> torch.Tensor:
    """The weights as a runtime reconstructs them, float32 [N, columns]."""
    n, blocks, _ = matrix.packed.shape
    values = _unpack(matrix.packed, grid).reshape(n, blocks, grid.width(columns)).float()
    if matrix.zero_points is None:
        zero_points = torch.full((n, blocks), grid.middle)
    else:
        zero_points = _points(matrix.zero_points, grid.bits)[:, :blocks].float()
    return ((values - zero_points.unsqueeze(-1)) * matrix.scales.unsqueeze(-1)).reshape(n, -1)[:, :columns]


def as_columns(packed: torch.Tensor) -> torch.Tensor:
    """Levels of whole rows, uint8 [N, 1, K], as signed integers that a product reads, int8 [K, N]."""
    return (packed.squeeze(1) ^ 128).view(torch.int8).T.contiguous()


def of_columns(levels: torch.Tensor) -> torch.Tensor:
    return (levels.T.contiguous().view(torch.uint8) ^ 128).unsqueeze(1)


def as_nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Levels of 4 bits, uint8 [N, blocks, block_size / 2], as signed ones of a tensor [blocks, block_size, N].

    Two of these lie in a byte, the first one in its lower half: uint8, flat.
    """
    levels = (torch.stack((packed & 15, packed >> 4), -1).flatten(2) ^ 8).permute(1, 2, 0).flatten()
    return levels[0::2] | levels[1::2] << 4


def of_nibbles(nibbles: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The way back from `as_nibbles`, given the shape of the tensor."""
    levels = torch.stack((nibbles & 15, nibbles >> 4), -1).view(*shape).permute(2, 0, 1) ^ 8
    return levels[..., 0::2] | levels[..., 1::2] << 4


def planes(bits: int) -> tuple[int, ...]:
    """The bits of a weight that lie together, the lower ones first: 3 bits as 2 and 1.

    A block's bytes are those of its first plane, and then those of the next. In the bytes that a kernel reads, which
    hold one or two weights, each of the bits of a plane has its place; a plane's byte i holds those of several kernel
    bytes, i, i + n, i + 2 n and so on, n the bytes of the plane, one beside the other. So a graph unpacks a plane with
    a shift and a mask. With 4 and 8 bits, the bytes are those that kernels read.
    """
    return {3: (2, 1), 5: (4, 1), 6: (4, 2)}.get(bits, (bits,))


def _quantize_rows(matrix: torch.Tensor, grid: BlockQuantization) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    blocks = padded_blocks(matrix, grid)
    scales, zero_points = best_scales(blocks, grid)
    packed = _pack(levels(blocks, scales, zero_points, grid).to(torch.uint8), grid.bits)
    return packed, scales.squeeze(-1), _pack_points(zero_points.squeeze(-1).to(torch.uint8), grid.bits)


def _places(bits: int, width: int, device: torch.device) -> torch.Tensor:
    """Where the values of a plane's byte begin in it: [kernel bytes, weights of a kernel byte]."""
    kernel = kernel_bits(bits)
    within, weights = torch.arange(0, kernel, width), torch.arange(0, 8, kernel)
    return (within[:, None] + weights).to(device, torch.uint8)


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs the values of blocks, uint8 [..., block_size], into bytes; see `planes`."""
    packed, start = [], 0
    for width in planes(bits):
        places = _places(bits, width, values.device)
        parts = (values >> start & (1 << width) - 1).unflatten(-1, (len(places), -1, places.shape[1]))
        packed.append((parts << places[:, None]).sum((-3, -1), dtype=torch.uint8))
        start += width
    return torch.cat(packed, -1)


def _unpack(packed: torch.Tensor, grid: BlockQuantization) -> torch.Tensor:
    """The values of blocks, uint8 [..., block_size]."""
    values, start = torch.zeros((), dtype=torch.uint8, device=packed.device), 0
    widths = planes(grid.bits)
    parts = packed.split([packed.shape[-1] * width // sum(widths) for width in widths], -1)
    for part, width in zip(parts, widths, strict=True):
        places = _places(grid.bits, width, packed.device)
        unpacked = part[..., None, :, None] >> places[:, None] & (1 << width) - 1
        values = values | unpacked.flatten(-3) << start
        start += width
    return values


def _pack_points(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Packs zero points into bytes along the last axis; an odd number of 4-bit values is filled up with a zero."""
    if bits == 8:
        return values
    even = torch.nn.functional.pad(values, (0, values.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)


def _points(packed: torch.Tensor, bits: int) -> torch.Tensor:
    return packed if bits == 8 else torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
