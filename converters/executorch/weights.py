"""How programs store weights: in float32, int8 with a scale for each row, or int4 with one for each block."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch

from converters.read_back import not_finite
from seap_export.pruning.rounding.grid import BlockQuantization
from seap_export.pruning.rounding.scales import best_scales, levels, padded_blocks

Kind = Literal["fp32", "int8", "int4"]
#: The grid that int4 matrices are rounded to; XNNPACK wants scales above zero.
GRID = BlockQuantization(4, 32, embeddings=False, whole_blocks=True, positive=True)
#: Rows that are rounded at a time.
_ROWS = 1024


@dataclass(frozen=True)
class Weight:
    """How a tensor of the model is stored in a program."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = "fp32"

    @property
    def scale_name(self) -> str:
        """The name under which the scales of the tensor are stored."""
        return f"{self.name}.scales"

    @property
    def size(self) -> int:
        """Bytes of the stored numbers, without scales."""
        return {"fp32": 4 * prod(self.shape), "int8": prod(self.shape), "int4": prod(self.shape) // 2}[self.kind]

    @property
    def scale_count(self) -> int:
        """Number of scales: one for each row in int8, one for each block in int4."""
        return {"fp32": 0, "int8": self.shape[0], "int4": prod(self.shape) // GRID.block_size}[self.kind]

    @property
    def scale_size(self) -> int:
        """Bytes of the scales: float32, or bfloat16 for blocks."""
        return self.scale_count * (2 if self.kind == "int4" else 4)


@dataclass(frozen=True)
class StoredNumbers:
    """The stored numbers of a tensor, with scales if they are quantised.

    Attributes:
        numbers: float32 or int8 in the shape of the tensor; or uint8 [rows, columns / 2], with two levels from 0 to 15
            in each, the first in the lower bits.
        scales: float32 [rows] or bfloat16 [rows, blocks]; None: the numbers are float32.
    """

    weight: Weight
    numbers: torch.Tensor
    scales: torch.Tensor | None = None

    def rows(self, rows: slice = slice(None)) -> torch.Tensor:
        """The rows in a slice, dequantised to float32."""
        part = self.numbers[rows]
        if self.scales is None:
            return part
        if self.weight.kind == "int8":
            return part.float() * self.scales[rows, None]
        levels = torch.stack([part & 15, part >> 4], -1).flatten(1).float() - 8
        return (levels.unflatten(1, (-1, GRID.block_size)) * self.scales[rows].float().unsqueeze(-1)).flatten(1)


def stored_numbers(weight: Weight, tensor: torch.Tensor) -> StoredNumbers:
    """Converts a tensor of the model to the form that `weight` says, quantising it if it is to be int8 or int4."""
    numbers = tensor.float().contiguous()
    if not torch.isfinite(numbers.sum(dtype=torch.float64)):
        raise not_finite(weight.name)
    if weight.kind == "fp32":
        return StoredNumbers(weight, numbers)
    if weight.kind == "int8":
        scales = _above_zero(numbers.abs().amax(1) / 127)
        levels = (numbers / scales[:, None]).round_().clamp_(-127, 127)
        return StoredNumbers(weight, levels.to(torch.int8), scales)
    parts = [_in_blocks(rows) for rows in numbers.split(_ROWS)]
    packed, block_scales = (torch.cat(part) for part in zip(*parts, strict=True))
    return StoredNumbers(weight, packed, block_scales)


def _in_blocks(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantises rows to int4: levels, uint8 [rows, columns / 2], and scales, bfloat16 [rows, blocks]."""
    blocks = padded_blocks(rows, GRID)
    scales, points = best_scales(blocks, GRID)
    stored = _above_zero(scales.bfloat16().float())
    numbers = levels(blocks, stored, points, GRID).to(torch.uint8).flatten(1)
    return numbers[:, ::2] | numbers[:, 1::2] << 4, stored.squeeze(-1).bfloat16()


def _above_zero(scales: torch.Tensor) -> torch.Tensor:
    """Replaces scales that are zero, or below float32's smallest normal number, by 1."""
    return torch.where(scales < torch.finfo(torch.float32).tiny, 1.0, scales)
