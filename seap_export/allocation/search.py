"""Looks for better steps in some directions, one after another, as in Hooke and Jeeves (1961)."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Found", "TrialLog", "search"]

#: The first step and the last one; each is half of the one before.
_FIRST, _LAST = 0.5, 0.125


@dataclass(frozen=True)
class Found:
    """The best of what was tried.

    Attributes:
        steps: How far it lies in each direction.
        before: The divergence without any step.
        after: The divergence there.
        trials: Number of measurements.
    """

    steps: Mapping[str, float]
    before: float
    after: float
    trials: int


class TrialLog:
    """Measurements in the order in which they were made, in a file, so that an interrupted search goes on.

    Args:
        path: The file, which need not exist; a line that was not written whole is dropped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        *lines, _ = path.read_text("utf-8").split("\n") if path.exists() else [""]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="\n")
        self._earlier = [float(json.loads(line)) for line in lines]

    def next(self, measure: Callable[[], float]) -> float:
        """The next measurement: that of the earlier call, if there was one."""
        if self._earlier:
            return self._earlier.pop(0)
        value = measure()
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"{json.dumps(value)}\n")
        return value


def search(
    names: Sequence[str],
    propose: Callable[[Mapping[str, float]], Hashable],
    measure: Callable[[Mapping[str, float]], float],
    trials: int,
) -> Found:
    """Takes a step in each direction, or the opposite one, and keeps what lowers the divergence.

    When no step does, steps are halved. The way that helped last is tried first.

    Args:
        names: The directions.
        propose: What would be measured at some steps; the same is not measured twice.
        measure: The divergence there.
        trials: Number of measurements at most, at least 1.
    """
    known: dict[Hashable, float] = {}

    def divergence(steps: Mapping[str, float]) -> float:
        proposed = propose(steps)
        if proposed not in known:
            known[proposed] = measure(steps)
        return known[proposed]

    steps, signs, size = dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0), _FIRST
    before = best = divergence(steps)
    while size >= _LAST and len(known) < trials:
        start = best
        for name in names:
            for sign in (signs[name], -signs[name]):
                if len(known) == trials:
                    break
                tried = {**steps, name: steps[name] + sign * size}
                if (own := divergence(tried)) < best:
                    steps, best, signs[name] = tried, own, sign
                    break
        if best == start:
            size /= 2
    return Found({name: own for name, own in steps.items() if own}, before, best, len(known))
