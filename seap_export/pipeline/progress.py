"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Where the pipeline reports to; the command line shows it, a library user may not want it."""

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A context manager that gives a function to call once for every unit done."""
        ...

    def say(self, message: str) -> None:
        """One line about what happens."""
        ...

    def warn(self, message: str) -> None:
        """One line about what the user should know, however quiet."""
        ...


class Silent:
    """Reports nothing."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar that shows nothing."""
        yield lambda unit: None

    def say(self, message: str) -> None:
        """Says nothing."""

    def warn(self, message: str) -> None:
        """Warns of nothing."""
