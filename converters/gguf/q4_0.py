"""Q4_0: blocks of 32 numbers with a float16 scale and levels from -8 to 7.

llama.cpp's own quantiser takes the scale that clips nothing. Here it is the one with the least squared error, and a
matrix that is on such levels already keeps them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from seap_export.pruning.rounding.grid import BlockQuantization, best_scales, levels, padded_blocks

Q4_0 = BlockQuantization(4, 32, embeddings=False, whole_blocks=True)
#: Numbers that are rounded at a time.
_ELEMENTS = 1 << 18


def encode_q4_0(rows: NDArray[np.float32]) -> NDArray[np.uint8]:
    """float32 [rows, columns] as bytes [rows, columns / 32 * 18]."""
    some = torch.from_numpy(rows).split(max(1, _ELEMENTS // rows.shape[1]))
    return np.concatenate([_encoded(part) for part in some])


def _encoded(rows: torch.Tensor) -> NDArray[np.uint8]:
    blocks = padded_blocks(rows, Q4_0)
    scales, points = best_scales(blocks, Q4_0)
    stored = scales.half()
    # the level 8 is zero, which all numbers get whose scale float16 does not hold
    divisors = torch.where(stored == 0, torch.inf, stored.float())
    numbers = levels(blocks, divisors, points, Q4_0.bits).to(torch.uint8)
    packed = torch.cat([stored.view(torch.uint8), numbers[..., :16] | numbers[..., 16:] << 4], -1)
    octets: NDArray[np.uint8] = packed.flatten(1).numpy()
    return octets
