"""Prints what commands report: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from seap_export.api.progress import PrintedProgress


class Console(PrintedProgress):
    """The output of one command, as JSON or for people."""

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


def megabytes(number: int | None) -> str:
    """A size as all reports write it; a dash if it is not known."""
    from validation.reports.numbers import megabytes as in_words  # loads numpy

    return "-" if number is None else in_words(number)


def quoted(path: Path) -> str:
    """A path in a command, as the shells of all systems take it; those of Windows know no single quotes."""
    return f'"{path}"' if " " in str(path) else str(path)
