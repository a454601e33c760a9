"""The numbers of a program's weights: float32, int8 with a scale for each row, or int4 with one for each block."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import torch

from converters.read_back import not_finite
from seap_export.pruning.rounding.grid import BlockQuantization, best_scales, levels, padded_blocks

Kind = Literal["fp32", "int8", "int4"]
#: What int4 matrices are on; XNNPACK wants scales above zero.
GRID = BlockQuantization(4, 32, embeddings=False, whole_blocks=True, positive=True)
#: Rows that are rounded at a time.
_ROWS = 1024


@dataclass(frozen=True)
class Weight:
    """A tensor of the model in a program.

    Attributes:
        name: In the plain form.
        shape: There.
        kind: How its numbers are stored.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind = "fp32"

    @property
    def scale_name(self) -> str:
        """The name of its scales."""
        return f"{self.name}.scales"

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return {"fp32": 4 * prod(self.shape), "int8": prod(self.shape), "int4": prod(self.shape) // 2}[self.kind]

    @property
    def scale_count(self) -> int:
        """The number of scales."""
        return {"fp32": 0, "int8": self.shape[0], "int4": prod(self.shape) // GRID.block_size}[self.kind]

    @property
    def scale_size(self) -> int:
        """Bytes of the scales: float32, or bfloat16 for blocks."""
        return self.scale_count * (2 if self.kind == "int4" else 4)


@dataclass(frozen=True)
class StoredNumbers:
    """A tensor as it is stored.

    Attributes:
        weight: Which.
        numbers: float32 or int8 of its shape; or uint8 [rows, columns / 2], with two levels from 0 to 15 in each, the
            first in the lower bits.
        scales: float32 [rows] or bfloat16 [rows, blocks]; None: the numbers are no levels.
    """

    weight: Weight
    numbers: torch.Tensor
    scales: torch.Tensor | None = None

    def rows(self, rows: slice = slice(None)) -> torch.Tensor:
        """Some rows in float32, dequantised."""
        part = self.numbers[rows]
        if self.scales is None:
            return part
        if self.weight.kind == "int8":
            return part.float() * self.scales[rows, None]
        levels = torch.stack([part & 15, part >> 4], -1).flatten(1).float() - 8
        return (levels.unflatten(1, (-1, GRID.block_size)) * self.scales[rows].float().unsqueeze(-1)).flatten(1)


def stored_numbers(weight: Weight, tensor: torch.Tensor) -> StoredNumbers:
    """A tensor of the model as it is stored.

    Raises:
        InputError: It has NaN or infinite values.
    """
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
    """Packed levels and scales."""
    blocks = padded_blocks(rows, GRID)
    scales, points = best_scales(blocks, GRID)
    stored = _above_zero(scales.bfloat16().float())
    numbers = levels(blocks, stored, points, GRID.bits).to(torch.uint8).flatten(1)
    return numbers[:, ::2] | numbers[:, 1::2] << 4, stored.squeeze(-1).bfloat16()


def _above_zero(scales: torch.Tensor) -> torch.Tensor:
    """The same scales, but 1 where nothing is above zero, or too near to it."""
    return torch.where(scales < torch.finfo(torch.float32).tiny, 1.0, scales)
