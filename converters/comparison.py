"""How far stored weights may be from those that the model gives now, by the way they are stored.

The same machine writes the same bytes. Another may round a number in its last place differently, or choose the other
of two scales that are equally good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: What another machine's arithmetic in float32 may change before a number is rounded, over the largest of its block:
#: eight units in the last place, as where two numbers nearly cancel.
_ARITHMETIC = 8 * 2.0**-23
#: Numbers of such a block, one behind the other as they are stored.
_BLOCK = 64
#: Bits of a number behind the first, and the smallest exponent of two that is a step between two numbers.
_STEPS = {"fp32": (23, -149), "fp16": (10, -24), "bf16": (7, -133)}
#: Rounded weights may have this many times the squared error that they would have if they were rounded now.
ERROR_RATIO = 1.01
#: Rows that are compared in float32 at a time.
_ROWS = 1024

#: Some rows of a matrix of levels as float32 [rows, columns]: as they would be rounded now, as they are stored, and
#: the scales of their blocks, [rows, blocks].
LevelRows = Callable[[slice], tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be from the one that was stored.

    Attributes:
        share: Tolerated distance, as a share of the largest magnitude in the number's block.
        block: Length of a block of neighbours; 1: each number by itself.
    """

    share: float
    block: int = 1
    tiny: float = 0.0

    def exceeded(self, stored: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.bool_]:
        """The mask of numbers further off, NaN included; both are [..., columns], with whole blocks in each row."""
        blocks = (*wanted.shape[:-1], -1, self.block)
        largest = np.abs(wanted).reshape(blocks).max(-1, keepdims=True)
        off = np.abs(stored - wanted).reshape(blocks)
        further: NDArray[np.bool_] = ~(off <= largest * self.share + self.tiny)
        return further.reshape(wanted.shape)


def are_as_near(
    stored: NDArray[np.float32], best: NDArray[np.float32], wanted: NDArray[np.float32], ratio: float = ERROR_RATIO
) -> NDArray[np.bool_]:
    """Whether rounded weights are as near to the model's as rounding them now gets, for each row of the last axis.

    Args:
        stored: The dequantised weights of the file.
        best: The model's weights as they would be rounded now.
        wanted: The model's weights, not rounded.
        ratio: How many times the squared error of `best` that of `stored` may be.
    """
    error, least = (np.square(values - wanted).sum(-1) for values in (stored, best))
    near: NDArray[np.bool_] = error <= ratio * least  # not where one is NaN
    return near


def other_numbers(name: str, pieces: Iterable[tuple[NDArray[Any], NDArray[Any]]], dtype: str) -> str | None:
    """Compares a tensor that is not quantised with the model's; returns what is wrong in one line, or None: nothing.

    Args:
        pieces: The tensor's numbers as the model gives them and as they are stored, piece by piece; integers must be
            equal.
        dtype: The dtype of the stored numbers: fp32, fp16 or bf16.

    Each number may be one unit in its own last place off, as where another machine's arithmetic makes it round to the
    other side, besides what that arithmetic changes itself.
    """
    far, worst = 0, 0.0
    for wanted, stored in pieces:
        if not np.issubdtype(wanted.dtype, np.floating):
            if not np.array_equal(wanted, stored):
                return f"'{name}' differs from the model's"
            continue
        if not np.isfinite(stored).all():
            return f"'{name}' holds NaN or infinite values"
        if np.array_equal(wanted, stored):
            continue
        off = np.abs(wanted - stored)
        is_far = off > _unit(wanted, dtype) + _ARITHMETIC * _largest_near(wanted)
        far, worst = far + int(is_far.sum()), max(worst, float(off[is_far].max(initial=0.0)))
    if far:
        return f"'{name}' differs from the model's in {far} numbers, by up to {worst:.2g}"
    return None


def _unit(values: NDArray[np.floating[Any]], dtype: str) -> NDArray[np.floating[Any]]:
    """The distance of each number to the next larger one of a dtype."""
    bits, smallest = _STEPS[dtype]
    _, exponents = np.frexp(values)
    units: NDArray[np.floating[Any]] = np.ldexp(1.0, np.maximum(exponents - 1 - bits, smallest))
    return units


def _largest_near(values: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The largest magnitude of the block of each number, in the shape of `values`."""
    flat = np.abs(values).reshape(-1)
    blocks = np.pad(flat, (0, -len(flat) % _BLOCK)).reshape(-1, _BLOCK)
    return blocks.max(1).repeat(_BLOCK)[: len(flat)].reshape(values.shape)


def worse_rows(name: str, count: int, read: LevelRows) -> str | None:
    """The rows of a matrix that are further from the model's weights than rounding them to levels now gets.

    If both are equally good, they differ by no more than the error of rounding.
    """
    rows: list[int] = []
    for start in range(0, count, _ROWS):
        best, stored, scales = read(slice(start, min(start + _ROWS, count)))
        apart = np.square(best - stored).sum(1)
        step = np.square(scales).sum(1) * (best.shape[1] / scales.shape[1]) / 12
        rows += (np.flatnonzero(apart > (ERROR_RATIO - 1) * step) + start).tolist()
    if not rows:
        return None
    return f"'{name}' differs from the model's in {len(rows)} rows, for example row {rows[0]}"
