"""Prints what commands report: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from seap_export.api.progress import PrintedProgress


class Console(PrintedProgress):
    """The output of one command.

    Attributes:
        as_json: Whether the result is printed as JSON.

    Args:
        quiet: Print errors and, with `as_json`, the result; nothing else.
        as_json: Print the result as JSON.
    """

    def __init__(self, quiet: bool, as_json: bool) -> None:
        super().__init__(quiet)
        self.as_json = as_json

    def result(self, value: Any, text: str, shortest: str | None = None) -> None:
        """Prints the result as JSON with --json, else as text; with --quiet the shortest one, if there is any."""
        if self.as_json:
            print_json(value)
        elif self._quiet and shortest is not None:
            click.echo(shortest)
        else:
            self.text(text)

    def text(self, text: str) -> None:
        """Prints text for people, unless --json or --quiet is given."""
        if not self.as_json and not self._quiet:
            click.echo(text)


def print_json(value: Any) -> None:
    """Prints a value as JSON on stdout; a command prints at most one."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns: the first and those of words to the left, those with a number to the right."""
    columns = []
    for number, column in enumerate(zip(header, *rows, strict=True)):
        is_words = number == 0 or not any(cell.lstrip("(+-")[:1].isdigit() for cell in column[1:])
        width = max(map(len, column))
        columns.append([cell.ljust(width) if is_words else cell.rjust(width) for cell in column])
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def megabytes(number: int) -> str:
    """Formats a size in bytes as megabytes (10^6 bytes)."""
    return f"{number / 1e6:.1f} MB"


def quoted(path: Path) -> str:
    """A path in a command, as the shells of all systems take it; those of Windows know no single quotes."""
    return f'"{path}"' if " " in str(path) else str(path)


def difference(max_abs: float | None) -> str:
    """The largest difference of a logit; a dash if none is finite."""
    return "-" if max_abs is None else f"{max_abs:.1e}"
