"""What the commands print: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

__all__ = ["Console", "difference", "megabytes", "print_json", "table"]


class Console:
    """Output of one command.

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
    def bar(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar; the function it gives is called once for every unit done."""
        if self._quiet:
            yield lambda unit: None
            return
        with click.progressbar(length=total, label=label, file=sys.stderr) as progress:
            yield lambda unit: progress.update(1)

    def say(self, message: str) -> None:
        """A remark."""
        if not self._quiet:
            click.echo(message, err=True)

    def warn(self, message: str) -> None:
        """A remark that is shown even when quiet."""
        click.echo(f"Warning: {message}", err=True)

    def result(self, value: Any, text: str) -> None:
        """The result: as JSON, or as text."""
        if self.as_json:
            print_json(value)
        else:
            self.text(text)

    def text(self, text: str) -> None:
        """A result that is for people only."""
        if not self.as_json and not self._quiet:
            click.echo(text)


def print_json(value: Any) -> None:
    """The one JSON document that a command prints."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns lined up: the first to the left, the others to the right."""
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
    """The largest difference of a logit; a dash where none is finite."""
    return "-" if max_abs is None else f"{max_abs:.1e}"
