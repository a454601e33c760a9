"""Progress as the command line prints it, and the quiet one of a library."""

from __future__ import annotations

import itertools
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

from seap_export.common.values import Given, Mismatch
from seap_export.pipeline.progress import Progress, Silent

#: Seconds between two progress lines if there is no terminal.
_HEARTBEAT_SECONDS = 30.0
#: Units that the pace is taken from. What comes before the first, or was done by an earlier run, says nothing of it.
_RECENT_UNITS = 8


class PrintedProgress:
    """A `Progress` that prints bars and messages on stderr."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    @contextmanager
    def step(
        self, label: str, total: int | None = None, unit: str = "layers", *, name: str | None = None
    ) -> Iterator[Callable[[object], None]]:
        """Shows a progress bar on a terminal; elsewhere a line when the step begins and every half minute after."""
        if self._quiet:
            yield lambda done: None
        elif total is not None and sys.stderr.isatty():
            with click.progressbar(length=total, label=label, file=sys.stderr) as bar:
                yield lambda done: bar.update(1)
        else:
            click.echo(label, err=True)
            with _heartbeat(label, total, unit) as advance:
                yield advance

    def say(self, message: str) -> None:
        """Prints a message, unless quiet."""
        if not self._quiet:
            click.echo(message, err=True)

    def warn(self, message: str) -> None:
        """Prints a warning, even when quiet."""
        click.echo(f"Warning: {message}", err=True)


class _Quiet(Silent):
    """A `Progress` that prints nothing and issues Python warnings."""

    def warn(self, message: str) -> None:
        """Issues a Python warning."""
        warnings.warn(message, stacklevel=2)


class ProgressArgument(Given[bool | Progress, Progress]):
    """True: print it as the command line does, on stderr. False: print nothing, and give warnings as Python's."""

    @classmethod
    def read(cls, value: object) -> Progress:
        if isinstance(value, bool):
            return PrintedProgress() if value else _Quiet()
        if all(callable(getattr(value, name, None)) for name in ("step", "say", "warn")):
            return value  # type: ignore[return-value]
        raise Mismatch("True or False")


@contextmanager
def _heartbeat(label: str, total: int | None, unit: str) -> Iterator[Callable[[object], None]]:
    """Prints how far a step has come every `_HEARTBEAT_SECONDS`, from a thread, until the block ends."""
    start, done, ended = time.monotonic(), itertools.count(1), threading.Event()
    latest, times = [0], deque[float](maxlen=_RECENT_UNITS + 1)

    def advance(_: object) -> None:
        times.append(time.monotonic() - start)
        latest[0] = next(done)

    def report() -> None:
        while not ended.wait(_HEARTBEAT_SECONDS):
            line = progress_line(latest[0], total, unit, time.monotonic() - start, tuple(times))
            click.echo(f"{label}: {line}", err=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def progress_line(done: int, total: int | None, unit: str, seconds: float, times: Sequence[float] = ()) -> str:
    """How far a step has come: the share that is done, the time it took, the pace and the time left, if it is known.

    Before the first unit is done, which may take longest, nothing but the time is known. As it is in every line, no
    two lines are alike.

    Args:
        done: Units that are done.
        total: All units; None: nobody knows.
        unit: What a unit is, in the plural.
        seconds: Seconds since the step began.
        times: When the last units were done, in these seconds.
    """
    if total is None or not done:
        return f"{duration(seconds)} so far"
    parts = [f"{done} of {total} {unit} in {duration(seconds)}"]
    if done == total:  # calibration then goes back through the layers
        parts.append("finishing")
    elif len(times) > 1 and times[-1] > times[0]:
        pace = (times[-1] - times[0]) / (len(times) - 1)
        left = (total - done) * pace - min(pace, seconds - times[-1])
        parts += [f"{1 / pace:.2g} {unit}/s", f"about {duration(left)} left"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time span as people read it: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
