"""Prints what commands report: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from seap_export.api.progress import PrintedProgress

__all__ = ["Console", "difference", "megabytes", "print_json", "table"]


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
