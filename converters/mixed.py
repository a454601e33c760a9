"""Precisions whose matrices have bits of their own, such as `mixed-3.5`, by the average in their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seap_export.common.values import PrecisionOrNone
from seap_export.errors import UsageError

if TYPE_CHECKING:
    from seap_export.pruning.rounding.grid import Way

#: What their names begin with; the average follows.
MIXED = PrecisionOrNone.mixed
#: A weight's share of its block's scale, in bits.
SCALE_BITS = 0.5


def average_bits(name: str, format: str, ways: Sequence[Way]) -> float | None:
    """The bits of a weight in `mixed-3.5`, with its share of a scale; None: it is not such a name.

    Args:
        ways: How a matrix may be rounded in the format; none: all matrices of a file are alike.
    """
    if not ways or not name.startswith(MIXED):
        return None
    if not re.fullmatch(rf"{MIXED}\d+(\.\d{{1,3}})?", name):
        raise UsageError(f"'{name}' names no number of bits; give one with at most three decimals, such as {MIXED}5.5")
    average, (least, most) = float(name.removeprefix(MIXED)), limits_of(ways)
    if not least <= average <= most:
        raise UsageError(
            f"{name} is out of range for {format}; give a number from {least:g} to {most:g}, the bits of a weight "
            "with its share of a scale"
        )
    return average


def limits_of(ways: Sequence[Way]) -> tuple[float, float]:
    """The least and the most bits of a weight, with its share of a scale, outside of mixtures of experts."""
    averages = [way.average for way in ways if way.of_experts is not True]
    return min(averages), max(averages)
