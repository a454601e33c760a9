"""Counts the work of a rendering: characters that are made and items that are visited."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, ValuesView
from contextvars import ContextVar
from typing import Any

#: Units for a rendering: about a second or 100 MB at worst; models' own templates take at most a hundredth of it.
_BASE = 20_000_000
#: Further units for each character or item of the messages.
_PER_INPUT = 300
#: The least cost of each step, such as a turn of a loop, and of each value that is weighed, in units of a character.
STEP, _VISIT = 16, 8
_WORD = 64  # bits


class TooMuchWork(Exception):
    """A template computes more than it may."""


class Budget:
    """The work that one rendering may still do."""

    def __init__(self, inputs: object) -> None:
        """Starts with the units that a rendering of these messages and tools may take."""
        self._left = _BASE
        self._left += _PER_INPUT * weight(inputs)

    def spend(self, units: int) -> None:
        """Takes units; raises `TooMuchWork` if too few are left."""
        self._left -= units
        if self._left < 0:
            raise TooMuchWork


#: The budget of the rendering that this thread does now.
CURRENT: ContextVar[Budget] = ContextVar("budget of a template")


def spend(units: int) -> None:
    """Takes units of the current rendering; raises `TooMuchWork`."""
    CURRENT.get().spend(units)


def weight(value: object, budget: Budget | None = None) -> int:
    """Characters in a value, and some for each item, as often as it would be written."""
    total, stack = 0, [value]
    while stack:
        value = stack.pop()
        units = _VISIT
        if isinstance(value, str | bytes):
            units += len(value)
        elif isinstance(value, Mapping):
            stack.extend(value)  # not "+=", which a value may define for itself
            stack.extend(value.values())
        elif isinstance(value, Sequence | Set | ValuesView) and not isinstance(value, range):
            stack.extend(value)
        else:
            units += flat_weight(value)
        total += units
        if budget is not None:
            budget.spend(units)
    return total


def flat_weight(value: object) -> int:
    """Characters or items of a value, without what is in the items; 64-bit words of a number."""
    if isinstance(value, int):
        return 1 + value.bit_length() // _WORD
    try:
        return 1 + len(value)  # type: ignore[arg-type]
    except TypeError:
        return 1


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """The items, each of which costs a step when it is asked for."""
    for item in items:
        spend(STEP)
        yield item
