"""Finds the first place in which two programs, both read into Python objects, differ."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np


def first_difference(wanted: Any, given: Any, place: str = "program") -> str | None:
    """Where two trees of objects, lists and values differ first, such as `program.operators[3].inputs[1] is 5, not 4`.

    Returns:
        One line; None: they are equal.
    """
    if isinstance(wanted, np.ndarray) and isinstance(given, np.ndarray):
        wanted, given = wanted.tolist(), given.tolist()
    if isinstance(wanted, list | tuple) and isinstance(given, list | tuple):
        pairs = enumerate(zip(wanted, given, strict=False))
        inner = (first_difference(*pair, f"{place}[{index}]") for index, pair in pairs)
        found = next(filter(None, inner), None)
        if found is None and len(wanted) != len(given):
            return f"{place} has {len(given)} items, not {len(wanted)}"
        return found
    if type(wanted) is not type(given):
        return f"{place} is {given!r:.40}, not {wanted!r:.40}"
    if hasattr(wanted, "__dict__") and not isinstance(wanted, Enum):
        parts = ((f"{place}.{key}", value, vars(given).get(key)) for key, value in vars(wanted).items())
        return next(filter(None, (first_difference(value, other, name) for name, value, other in parts)), None)
    is_same = wanted == given or (wanted != wanted and given != given)  # NaN is no number, not even itself
    return None if is_same else f"{place} is {given!r:.40}, not {wanted!r:.40}"
