"""Prints what commands report: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["Console", "difference", "duration", "megabytes", "print_json", "progress_line", "table"]

#: Seconds between two progress lines if there is no terminal.
_HEARTBEAT_SECONDS = 30.0


class Console:
    """The output of one command.

    Attributes:
        as_json: Whether the result is printed as JSON.

    Args:
        quiet: Print errors and, with `as_json`, the result; nothing else.
        as_json: Print the result as JSON.
    """

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self._quiet = quiet
        self.as_json = as_json

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
        """A remark."""
        if not self._quiet:
            click.echo(message, err=True)

    def warn(self, message: str) -> None:
        """Prints a remark, even when quiet."""
        click.echo(f"Warning: {message}", err=True)

    def result(self, value: Any, text: str) -> None:
        """Prints the result as JSON or as text."""
        if self.as_json:
            print_json(value)
        else:
            self.text(text)

    def text(self, text: str) -> None:
        """Prints a result that is for people only."""
        if not self.as_json and not self._quiet:
            click.echo(text)


@contextmanager
def _heartbeat(label: str, total: int | None, unit: str) -> Iterator[Callable[[object], None]]:
    """Prints how far a step has come every `_HEARTBEAT_SECONDS`, from a thread, until the block ends."""
    start, done, ended = time.monotonic(), itertools.count(1), threading.Event()
    latest = [0]

    def advance(_: object) -> None:
        latest[0] = next(done)

    def report() -> None:
        while not ended.wait(_HEARTBEAT_SECONDS):
            click.echo(f"{label}: {progress_line(latest[0], total, unit, time.monotonic() - start)}", err=True)

    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield advance
    finally:
        ended.set()
        thread.join()


def progress_line(done: int, total: int | None, unit: str, seconds: float) -> str:
    """How far a step has come: the share that is done, the rate and the time left, as far as they are known."""
    if total is None:
        return f"{duration(seconds)} so far"
    parts = [f"{done} of {total} {unit}"]
    if done:
        rate = done / seconds
        parts += [f"{rate:.2g} {unit}/s", f"about {duration((total - done) / rate)} left"]
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time span as people read it: 8 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_json(value: Any) -> None:
    """Prints the only JSON document of a command."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns: the first to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(header, *rows, strict=True))
    lines = (
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in (header, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def megabytes(number: int) -> str:
    """A size in bytes as MB (10^6 bytes)."""
    return f"{number / 1e6:.1f} MB"


def difference(max_abs: float | None) -> str:
    """The largest difference of a logit; a dash if none is finite."""
    return "-" if max_abs is None else f"{max_abs:.1e}"
