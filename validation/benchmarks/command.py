"""How a command that measures ends."""

from __future__ import annotations

from typing import Any

import click

from seap_export.errors import SeapError


class Benchmark(click.Command):
    """Shows bad input as one line, with its exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; a `SeapError` becomes a `click.ClickException`."""
        try:
            return super().invoke(ctx)
        except SeapError as error:
            shown = click.ClickException(str(error))
            shown.exit_code = error.exit_code  # type: ignore[misc]  # a class variable in click's eyes
            raise shown from error
