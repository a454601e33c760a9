"""`seap-export plot`: draws what variants keep, share and cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from seap_export.api.options import RunOptions
from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand
from seap_export.cli.options import option_of, output_options
from seap_export.cli.values import ExistingPath, PathType


@click.command("plot", cls=GroupedCommand)
@click.argument("paths", nargs=-1, type=ExistingPath(), metavar="[PATH]...")
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    type=ExistingPath(),
    help="A report of `evaluate`, for the figure of quality against ratio. Repeatable.",
)
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["svg", "png"]),
    default="svg",
    show_default=True,
    help="Format of the figures.",
)
@click.option(
    "--out",
    required=True,
    type=PathType(),
    help="Folder for the figures, and for plots.json, which holds their numbers.",
)
@option_of(RunOptions, "force")
@output_options
def plot_command(
    console: Console,
    paths: tuple[Path, ...],
    evaluations: tuple[Path, ...],
    out: Path,
    force: bool,
    picture_format: Any,
) -> None:
    """Draw which parts variants keep, how much they share, and size and ratio against quality.

    PATH is an output folder of `export` (all its variants), a variant's folder or a plan.json with hf/ beside it.

    \b
    Examples:
      seap-export plot pruned --out pictures
      seap-export plot pruned --evaluation gsm8k-0.2.json --evaluation gsm8k-0.5.json --format png --out pictures
    """
    from seap_export.errors import UsageError
    from seap_export.pipeline.plots.draw import (
        PLOTS_FILE,
        read_evaluations,
        read_recommended,
        read_variants,
        require_matplotlib,
        write_plots,
    )

    if not paths and not evaluations:
        raise UsageError("nothing to plot; give an output folder, a variant or an --evaluation")
    require_matplotlib()
    variants, points = read_variants(paths), read_evaluations(evaluations)
    shipped = read_recommended(paths)
    numbers = write_plots(variants, points, out, picture_format, recommended=shipped, force=force)
    files = [*numbers["pictures"], PLOTS_FILE]
    console.result(numbers, "\n".join(str(out / name) for name in files))
