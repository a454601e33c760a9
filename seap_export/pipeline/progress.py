"""The interface through which long-running work reports its progress, and an implementation that prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

#: Called once for each unit of work that is done; the argument is ignored.
Advance = Callable[[object], None]


class Progress(Protocol):
    """Receives the pipeline's progress and messages. The command line shows them; library users may ignore them."""

    def step(
        self, label: str, total: int | None = None, unit: str = "layers", *, name: str | None = None
    ) -> AbstractContextManager[Advance]:
        """Shows a step while the block runs.

        Args:
            label: The text to show, such as `validating the variants`.
            total: The number of units; None if it is not known in advance.
            unit: The name of the units, in the plural.
            name: Records the step's time and memory under this name; see `pipeline.performance`.
        """
        ...

    def say(self, message: str) -> None:
        """Prints a one-line message."""
        ...

    def warn(self, message: str) -> None:
        """Prints one line that the user should read even when other output is off."""
        ...


class Silent:
    """A `Progress` that prints nothing."""

    @contextmanager
    def step(
        self, label: str, total: int | None = None, unit: str = "layers", *, name: str | None = None
    ) -> Iterator[Advance]:
        """Runs the block without showing a step."""
        yield lambda unit_done: None

    def say(self, message: str) -> None:
        """Prints nothing."""

    def warn(self, message: str) -> None:
        """Prints nothing."""
