"""Weights in MXFP4: blocks of 32 numbers of 4 bits, each with a power of two as its scale, as gpt-oss is published.

They are made bfloat16 as transformers does it: exactly, unless a scale is beyond bfloat16's range.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from seap_export.errors import InputError

#: The endings of the names of the two tensors that stand for one.
BLOCKS, SCALES = "_blocks", "_scales"
_POSITIVE = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_NUMBERS = torch.tensor([*_POSITIVE, *(-number for number in _POSITIVE)], dtype=torch.bfloat16)
_BYTES, _BIAS = 16, 127


def decoded_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, given those that are stored: blocks and scales become a matrix of each expert.

    Blocks are [experts, out, blocks, 16 bytes], scales [experts, out, blocks]; what they stand for is [experts, in,
    out], with 32 inputs in a block.
    """
    plain = {name: shape for name, shape in shapes.items() if not name.endswith((BLOCKS, SCALES))}
    for name in sorted({name.removesuffix(BLOCKS).removesuffix(SCALES) for name in shapes.keys() - plain.keys()}):
        blocks, scales = (shapes.get(name + suffix, ()) for suffix in (BLOCKS, SCALES))
        if len(blocks) != 4 or blocks[3] != _BYTES or scales != blocks[:3]:
            raise InputError(
                f"'{name}': its blocks {list(blocks)} and scales {list(scales)} do not belong together as in MXFP4; "
                "download the model again"
            )
        plain[name] = (blocks[0], 2 * _BYTES * blocks[2], blocks[1])
    return plain


def decoded(blocks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Decodes blocks and scales, both uint8, to bfloat16 [experts, in, out]; see `decoded_shapes`."""
    experts, rows, groups, _ = blocks.shape
    matrices = torch.empty(experts, 2 * _BYTES * groups, rows, dtype=torch.bfloat16)
    for expert, matrix in enumerate(matrices):  # one after another: each takes eight bytes a number on the way
        numbers = torch.stack((blocks[expert] & 15, blocks[expert] >> 4), -1).flatten(-2)
        scaled = torch.ldexp(_NUMBERS[numbers.int()], scales[expert].int().unsqueeze(-1) - _BIAS)
        matrix.copy_(scaled.flatten(1).T)
    return matrices
