"""`python tests/benchmarks NAME ...`: the commands that measure and print the tables in docs.

Tests do not time anything.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import click  # noqa: E402

from seap_export.common.threads import spin_briefly  # noqa: E402
from seap_export.errors import SeapError  # noqa: E402

#: Each is a function of this name in the file of this name.
NAMES = (
    "draft_table",
    "frontier_table",
    "job_tables",
    "peers_table",
    "precision_table",
    "prompt_table",
    "random_model",
    "recipe_table",
    "talking_mixture",
    "zero_shot_table",
)


class _Benchmarks(click.Group):
    """Imports a command where it is asked for, and shows bad input as one line, with its exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NAMES)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return getattr(import_module(f"benchmarks.{name}"), name) if name in NAMES else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SeapError as error:
            shown = click.ClickException(str(error))
            shown.exit_code = error.exit_code  # type: ignore[misc]  # a class variable in click's eyes
            raise shown from error


benchmarks = _Benchmarks()

if __name__ == "__main__":
    spin_briefly()
    benchmarks(prog_name="python tests/benchmarks")
