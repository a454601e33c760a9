"""`seap-export prune`: turns a plan into a smaller model."""

from __future__ import annotations

from typing import Any

import click

from seap_export.cli.console import Console
from seap_export.cli.groups import GroupedCommand, option, titled
from seap_export.cli.options import (
    compute_options,
    force_option,
    model_argument,
    out_option,
    output_options,
)
from seap_export.cli.values import PathType


@click.command("prune", cls=GroupedCommand)
@model_argument
@option("--plan", required=True, type=PathType(), help="A plan.json of `plan` or `export`.")
@option(
    "--calibration",
    multiple=True,
    required=True,
    type=PathType(),
    help="The statistics that the plan was made from. Repeatable, for a mixture.",
)
@out_option("Folder for the shrunk model.")
@force_option
@titled("Machine", *compute_options, output_options)
def prune_command(console: Console, **options: Any) -> None:
    """Cut MODEL down as a plan says, and write the smaller model folder.

    \b
    Example:
      seap-export prune ./SmolLM2-135M --plan plan.json --calibration pruned/calibration/gsm8k --out shrunk
    """
    from seap_export.api.prune import prune

    model = prune(**options, progress=console)
    result = {"folder": str(model.path), "num_parameters": model.num_parameters}
    console.result(result, f"{model.path}: {model.num_parameters:,} parameters")
