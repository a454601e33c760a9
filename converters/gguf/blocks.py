"""GGML types of blocks of 32 numbers with few bits, written from the grids of `pruning.rounding`.

llama.cpp's own quantisers take the scale that clips nothing. Here it is the one with the least squared error, and a
matrix that is on such levels already keeps them. A block has a scale in float16; then, with 5 bits, the highest bits
of all levels; and at last the lower four bits, those of two levels in a byte.

Source: https://github.com/ggml-org/llama.cpp at 0c1e57098, ggml/src/ggml-common.h and ggml-quants.c.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from seap_export.pruning.rounding.grid import BlockQuantization, Way
from seap_export.pruning.rounding.scales import best_scales, levels, padded_blocks

#: The types, as ways to round a matrix.
WAYS: Mapping[Kind, Way] = {
    Kind.Q4_0: Way(4, 32),
    Kind.IQ4_NL: Way(4, 32, "curve"),
    Kind.Q5_0: Way(5, 32, "zero"),
    Kind.Q8_0: Way(8, 32, "balanced"),
}
#: The grid of Q4_0, and of the others those that differ in bits or levels.
Q4_0 = BlockQuantization(4, 32, embeddings=False, whole_blocks=True)
GRIDS: Mapping[Kind, BlockQuantization] = {kind: Q4_0.rounded(way) for kind, way in WAYS.items() if way.bits < 8}
#: Numbers that are rounded at a time.
_ELEMENTS = 1 << 18


def encode_blocks(rows: NDArray[np.float32], kind: Kind) -> NDArray[np.uint8]:
    """float32 [rows, columns] as bytes [rows, columns / 32 * bytes of a block], in one of the types of `GRIDS`."""
    some = torch.from_numpy(rows).split(max(1, _ELEMENTS // rows.shape[1]))
    return np.concatenate([_encoded(part, GRIDS[kind]) for part in some])


def _encoded(rows: torch.Tensor, grid: BlockQuantization) -> NDArray[np.uint8]:
    blocks = padded_blocks(rows, grid)
    scales, points = best_scales(blocks, grid)
    numbers = levels(blocks, scales, points, grid).to(torch.uint8)
    packed = [scales.half().view(torch.uint8)]
    if grid.bits == 5:
        packed.append(_highest(numbers))
    low = numbers & 15
    packed.append(low[..., :16] | low[..., 16:] << 4)
    octets: NDArray[np.uint8] = torch.cat(packed, -1).flatten(1).numpy()
    return octets


def _highest(numbers: torch.Tensor) -> torch.Tensor:
    """The fifth bits of 32 levels, those of the first eight in the first byte, from its lowest bit."""
    bits = (numbers >> 4).unflatten(-1, (4, 8))
    places = torch.arange(8, dtype=torch.uint8)
    return (bits << places).sum(-1, dtype=torch.uint8)
