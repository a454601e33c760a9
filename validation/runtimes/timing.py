"""The time that a prompt and the tokens after it take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

Tokens = TypeVar("Tokens")


@dataclass(frozen=True)
class Pace:
    """The times of one generation.

    Attributes:
        first_s: Seconds until the first token of each row was known.
        steps_s: Seconds of each token after it.
    """

    first_s: float
    steps_s: tuple[float, ...]


def timed_loop(first: Callable[[], Tokens], following: Callable[[Tokens], Tokens], steps: int) -> Pace:
    """Times a generation.

    Args:
        steps: How often `following` is called.
    """
    begin = time.perf_counter()
    tokens = first()
    times = [time.perf_counter()]
    for _ in range(steps):
        tokens = following(tokens)
        times.append(time.perf_counter())
    return Pace(times[0] - begin, tuple(end - start for start, end in pairwise(times)))
